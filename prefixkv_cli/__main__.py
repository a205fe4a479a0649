"""`python -m prefixkv_cli` is `prefixkv`."""

from __future__ import annotations

from prefixkv_cli.app import main

main()
