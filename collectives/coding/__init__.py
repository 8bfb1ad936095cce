"""Gradients from workers of which some straggle: codes, schemes, their simulation, and running them."""
