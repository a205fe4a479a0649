"""The least limit of a picture's pixels that an option and a line of a file may give."""

LEAST_PIXELS = 1024
"""A smaller limit is refused: processors make patches of some 14 to 32 pixels a side."""
