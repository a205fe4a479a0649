"""A decoder from token ids to logits in the project's own kernels: one step of all rows, captured as one graph."""
