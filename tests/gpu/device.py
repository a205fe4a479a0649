"""Where these tests run."""

from __future__ import annotations

DEVICE = "cuda"
DTYPES = ("float32", "bfloat16", "float16")
"""In which the model computes."""
