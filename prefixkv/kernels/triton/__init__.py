"""Triton versions of the kernels: same names and signatures as their plain torch twins, which specify them."""
