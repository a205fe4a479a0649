"""Decoding whose whole step is one CUDA graph: nothing but the GPU's own work is left."""
