"""Attention without a softmax over ranks: what is exchanged does not grow with the sequence."""
