"""The compressed cache: what moves and frees keys and values, and the attention that reads them."""
