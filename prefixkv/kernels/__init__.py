"""Tensor operations in plain torch: each is the specification of its faster versions and what the CPU runs."""
