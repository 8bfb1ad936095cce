"""Layouts of memory, their canonical form, and the kernels that move them."""
