"""The methods, one a file: how entries are scored, how layers share, which entries stay and which go."""
