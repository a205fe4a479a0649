"""`full`: the uncompressed cache."""

from prefixkv.methods.method import Method

FULL = Method("full", "keep everything; the budget is not applied", score=None)
