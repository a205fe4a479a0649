"""Drawn documents that can be read: receipts, forms, tables, charts, signs and notes, with questions and exact answers.

A seed gives the same content, questions and answers everywhere. Importing this package loads neither torch nor Pillow.
"""

DOCUMENT_KINDS = ("receipt", "form", "table", "chart", "sign", "note")

SOFTWARE_FIELD, SOFTWARE = "Software", "prefixkv demo-scene"
"""What a document's picture, and a PNG file of it, says of where it comes from."""
