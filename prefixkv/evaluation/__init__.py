"""What compression costs in quality, measured through the real decode path."""
