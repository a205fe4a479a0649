"""A conversation on one compressed cache, and saving it."""
