"""Rows that are read, decoded step by step, and let go: what chat, batch and stock generate decode with."""
