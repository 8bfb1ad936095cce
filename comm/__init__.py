"""Communicators that take any array and datatype."""
