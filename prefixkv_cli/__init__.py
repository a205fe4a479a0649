"""The `prefixkv` command. Presents what the engine does; no tensor in here."""
