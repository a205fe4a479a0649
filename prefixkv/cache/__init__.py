"""The compressed cache: what moves and frees keys and values, and everything that touches transformers' own caches."""
