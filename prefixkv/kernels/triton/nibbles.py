"""Codes of 16 bit words as numbers that the matrix units take, by bit operations instead of conversions.

A float's mantissa is an integer: the bits of a code behind those of a power of two are that power plus the code, in
units of its last place. Taking off the power and the codes' middle is exact. Two words are treated at once.
"""

from __future__ import annotations

import triton
import triton.language as tl


def _assembly(kind: str, power: int, unit: int, one: int, less: int, bits: int) -> tuple[str, ...]:
    """Instructions for two words in operand 1, for each plane: its codes of both into operand 0.

    Args:
        kind: of the two floats.
        power: bits of the power of two, of one word, as the others.
        unit: how many units of the last place a code counts as, as a shift.
        one: bits of 1.
        less: bits of minus the power and the codes' middle.
        bits: of a code.
    """
    twice, mask = 0x10001, ((1 << bits) - 1 << unit) * 0x10001
    planes = []
    for shift in (unit - plane * bits for plane in range(16 // bits)):
        lines = (
            "{.reg .b32 word, one, less;",
            f"mov.b32 one, {one * twice}; mov.b32 less, {less * twice};",
            f"{'shl' if shift > 0 else 'shr'}.b32 word, $1, {abs(shift)};",
            f"lop3.b32 word, word, {mask}, {power * twice}, 0xEA;",
            f"fma.rn.{kind}x2 $0, word, one, less;}}",
        )
        planes.append("\n".join(lines))
    return tuple(planes)


_BFLOAT16_4 = tl.constexpr(_assembly("bf16", 0x4300, 3, 0x3F80, 0xC33C, bits=4))
"""128 + 8 code, less 128 + 60."""
_BFLOAT16_2 = tl.constexpr(_assembly("bf16", 0x4300, 3, 0x3F80, 0xC30C, bits=2))
"""128 + 8 code, less 128 + 12."""
_FLOAT16_4 = tl.constexpr(_assembly("f16", 0x6400, 4, 0x3C00, 0xE478, bits=4))
"""1024 + 16 code, less 1024 + 120."""
_FLOAT16_2 = tl.constexpr(_assembly("f16", 0x6400, 4, 0x3C00, 0xE418, bits=2))
"""1024 + 16 code, less 1024 + 24."""


@triton.jit
def unit(dtype: tl.constexpr):
    """What the numbers of `planes` count a code as."""
    if dtype == tl.bfloat16:
        return 8.0
    elif dtype == tl.float16:
        return 16.0
    else:
        return 1.0


@triton.jit
def plane(words, PLANE: tl.constexpr, dtype: tl.constexpr, CODE_BITS: tl.constexpr, ASSEMBLY: tl.constexpr):
    """(code - middle) * unit of one code of each word, exact in `dtype`.

    A plane has instructions of its own, so that the compiler brings the words to where the matrix units take them, and
    not the planes.

    Args:
        words: int16.
        PLANE: which code of a word, from its lowest bits on.
        dtype: of the result.
        CODE_BITS: 4, the middle is 7.5 and a word has four codes; or 2, 1.5 and eight.
        ASSEMBLY: by PTX, where it can be had and `dtype` has 16 bits.
    """
    if ASSEMBLY and dtype == tl.bfloat16:
        LINES: tl.constexpr = _BFLOAT16_4[PLANE] if CODE_BITS == 4 else _BFLOAT16_2[PLANE]
        return tl.inline_asm_elementwise(LINES, "=r,r", [words], tl.bfloat16, True, 2)
    elif ASSEMBLY and dtype == tl.float16:
        LINES: tl.constexpr = _FLOAT16_4[PLANE] if CODE_BITS == 4 else _FLOAT16_2[PLANE]  # type: ignore[no-redef]
        return tl.inline_asm_elementwise(LINES, "=r,r", [words], tl.float16, True, 2)
    else:
        code = (words >> (PLANE * CODE_BITS)) & ((1 << CODE_BITS) - 1)
        return ((code.to(tl.float32) - ((1 << CODE_BITS) - 1) / 2) * unit(dtype)).to(dtype)
