"""Random changes of plain values and of bytes."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2,
        3,
        2**31,
        2**53 + 1,
        2**63,
        -(2**63),
        10**400,
        0.0,
        -0.0,
        0.5,
        1.5,
        1e-320,
        1e308,
    ),
    *(
        float("nan"),
        float("inf"),
        -float("inf"),
        "",
        "x",
        "\0",
        "\ud800",
        "é" * 300,
        "x" * 5000,
        "../../x",
        "~nosuch/x",
    ),
    *(
        "1",
        "-1",
        "1e999",
        "20%",
        "9" * 400,
        "1/0",
        "\x1b[2J",
        "\n\n",
        "full",
        "prefixkv",
        "guided",
        "a.png",
        "/dev/zero",
    ),
    *([], {}, [[]], [{}], [None], [0.5] * 8, [1] * 2000, {"": {}}, {"a": [1, {"b": None}]}),
)


def changed(content: Any, random: Random) -> Any:
    """A copy with one or a few places changed, added or taken away."""
    new = json.loads(json.dumps(content))
    for _ in range(random.choice((1, 1, 1, 2, 3, 5))):
        places = list(_places(new))
        if not places:
            return _odd(random)
        # Values deep inside are many; those near the top count as much together.
        depth = random.choice(sorted({depth for depth, _, _ in places}))
        _, owner, key = random.choice([place for place in places if place[0] == depth])
        kind = random.randrange(7)
        if kind == 0:
            del owner[key]
        elif kind == 1 and isinstance(owner, dict):
            owner[random.choice(("", "x", "format", "version", "\ud800", "keys"))] = _odd(random)
        elif kind == 2 and isinstance(owner, list):
            owner.extend([owner[key]] * random.choice((1, 3, 1000)))
        elif kind == 3 and isinstance(owner[key], (int, float)) and abs(owner[key]) < 2**63:
            owner[key] += random.choice((-1, 1, 0.5, 1e9, -1e9))
        elif kind == 4 and isinstance(owner[key], str) and owner[key]:
            place = random.randrange(len(owner[key]))
            owner[key] = (
                owner[key][:place] + random.choice(("", "\0", "\n", "9", "é", "\udcff")) + owner[key][place + 1 :]
            )
        elif kind == 5:
            owner[key] = random.choice((lambda value: [value], lambda value: {"x": value}, str))(owner[key])
        else:
            owner[key] = _odd(random)
    return new


def _odd(random: Random) -> Any:
    """A copy: what is put in may itself be changed afterwards."""
    return copy.deepcopy(random.choice(ODD))


def _places(content: Any, depth: int = 0, most: int = 8) -> Any:
    keys: list[Any] = list(content) if isinstance(content, dict) else []
    if isinstance(content, list):
        # The ends and the middle stand for the others.
        keys = sorted({0, len(content) // 2, len(content) - 1}) if content else []
    for key in keys[:60]:
        yield depth, content, key
        if isinstance(content[key], (dict, list)) and depth < most:
            yield from _places(content[key], depth + 1, most)


def changed_bytes(data: bytes, random: Random) -> bytes:
    """A copy with bytes changed, taken out, put in, doubled, or cut off."""
    copy = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        place = random.randrange(len(copy)) if copy else 0
        # The first bytes say most of what a file is.
        if random.random() < 0.3:
            place = min(place, random.randrange(64))
        kind = random.randrange(7)
        if kind == 0:
            copy[place : place + 1] = bytes([random.randrange(256)])
        elif kind == 1:
            copy[place : place + random.choice((1, 2, 4, 100))] = b""
        elif kind == 2:
            copy[place:place] = random.choice((b"\0", b"\xff" * 4, b"[" * 1000, b'"', b"\xff\xfe", random.randbytes(8)))
        elif kind == 3:
            copy[place : place + 4] = random.choice(
                (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\1")
            )
        elif kind == 4 and random.random() < 0.3:
            copy = copy[:place]
        elif kind == 5:
            copy[place:place] = copy[place : place + random.choice((4, 16, 200))]
        elif place < len(copy):
            copy[place] ^= 1 << random.randrange(8)
    return bytes(copy)


def written(content: Any, random: Random) -> bytes:
    """The content as JSON, one time in four with its bytes changed too."""
    data = json.dumps(content, ensure_ascii=random.random() < 0.5).encode(errors="surrogatepass")
    if random.random() < 0.02:
        depth = random.choice((65, 500, 100_000))
        data = b"[" * depth + data + b"]" * depth
    return changed_bytes(data, random) if random.random() < 0.25 else data
