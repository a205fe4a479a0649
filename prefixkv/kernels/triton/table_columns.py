"""The entry table's columns as the kernels' constants, in the order of `prefixkv.kernels.entry_table.COLUMNS`."""

from __future__ import annotations

import triton.language as tl

from prefixkv.kernels.entry_table import COLUMNS

KEYS = tl.constexpr(COLUMNS.index("keys"))
VALUES = tl.constexpr(COLUMNS.index("values"))
POSITIONS = tl.constexpr(COLUMNS.index("positions"))
IMPORTANCE = tl.constexpr(COLUMNS.index("importance"))
ORDER = tl.constexpr(COLUMNS.index("order"))
CAPACITY = tl.constexpr(COLUMNS.index("capacity"))
ORDER_SIZE = tl.constexpr(COLUMNS.index("order_size"))
BITS_COLUMN = tl.constexpr(COLUMNS.index("bits"))
CHOICES = tl.constexpr(COLUMNS.index("choices"))
SLOT = tl.constexpr(COLUMNS.index("slot"))
KEPT_TOKENS = tl.constexpr(COLUMNS.index("kept_tokens"))
SEEN_TOKENS = tl.constexpr(COLUMNS.index("seen_tokens"))
ANCHOR_SEEN = tl.constexpr(COLUMNS.index("anchor_seen"))
ANCHOR_KEPT = tl.constexpr(COLUMNS.index("anchor_kept"))
LIMIT = tl.constexpr(COLUMNS.index("limit"))
HEAD = tl.constexpr(COLUMNS.index("head"))
COUNT = tl.constexpr(COLUMNS.index("count"))
FINE_KEYS = tl.constexpr(COLUMNS.index("fine_keys"))
FINE_VALUES = tl.constexpr(COLUMNS.index("fine_values"))
FINE_TOKENS = tl.constexpr(COLUMNS.index("fine_tokens"))
FINE_BITS = tl.constexpr(COLUMNS.index("fine_bits"))
BESIDE = tl.constexpr(COLUMNS.index("beside"))
ACTIVE = tl.constexpr(COLUMNS.index("active"))
