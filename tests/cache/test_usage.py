"""Usage as plain values."""

from __future__ import annotations

import json

from prefixkv.cache.usage import CacheUsage, LayerUsage


def test_usage_as_dict_has_the_shape_of_the_json() -> None:
    usage = CacheUsage(200, 60, 64, 0.3, 0.3, 4.0, "int4", (LayerUsage(0, 10, 4, 40), LayerUsage(1, 10, 2, 20)))
    assert json.loads(json.dumps(usage.as_dict())) == {
        "full_bytes": 200,
        "kept_bytes": 60,
        "allocated_bytes": 64,
        "kept_tokens_fraction": 0.3,
        "bytes_fraction": 0.3,
        "bits": 4.0,
        "codec": "int4",
        "layers": [
            {"layer": 0, "seen_tokens": 10, "kept_tokens": 4, "bytes": 40, "fine_tokens": 0},
            {"layer": 1, "seen_tokens": 10, "kept_tokens": 2, "bytes": 20, "fine_tokens": 0},
        ],
        "left_bytes": 0,
    }
