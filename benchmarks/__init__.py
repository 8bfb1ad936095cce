"""Measurements of roundelay beside its alternatives; each checks its bytes before it times them."""
