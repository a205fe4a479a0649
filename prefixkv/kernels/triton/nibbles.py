"""Four bit codes of 16 bit words as numbers that the matrix units take, by bit operations instead of conversions.

A float's mantissa is an integer: the bits of a code behind those of a power of two are that power plus the code, in
units of its last place. Taking off the power and the codes' middle is exact. Two words are treated at once.
"""

from __future__ import annotations

import triton
import triton.language as tl


def _assembly(power: int, mask: int, shifts: tuple[int, ...], kind: str, one: int, less: int) -> str:
    """Instructions for two words in $4: codes 0 to 3 of both into $0 to $3.

    Args:
        power: bits of the power of two, of one word, as the others.
        mask: where the code stands behind it.
        shifts: of each code to that place; to the left where positive.
        kind: of the two floats.
        one: bits of 1.
        less: bits of minus the power and the middle.
    """
    twice = 0x10001
    lines = [
        "{.reg .b32 word, one, less;",
        f"mov.b32 one, {one * twice}; mov.b32 less, {less * twice};",
    ]
    for plane, shift in enumerate(shifts):
        lines.append(f"{'shl' if shift > 0 else 'shr'}.b32 word, $4, {abs(shift)};")
        lines.append(f"lop3.b32 word, word, {mask * twice}, {power * twice}, 0xEA;")
        lines.append(f"fma.rn.{kind}x2 ${plane}, word, one, less;")
    return "\n".join([*lines, "}"])


_BFLOAT16 = tl.constexpr(_assembly(0x4300, 0x78, (3, -1, -5, -9), "bf16", 0x3F80, 0xC33C))
"""128 + 8 code, less 128 + 60."""
_FLOAT16 = tl.constexpr(_assembly(0x6400, 0xF0, (4, 0, -4, -8), "f16", 0x3C00, 0xE478))
"""1024 + 16 code, less 1024 + 120."""


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
def planes(words, dtype: tl.constexpr, ASSEMBLY: tl.constexpr):
    """(code - 7.5) * unit of the four codes of each word, from its lowest bits on, exact in `dtype`.

    `ASSEMBLY`: by PTX, where it can be had and `dtype` has 16 bits.
    """
    if ASSEMBLY and dtype == tl.bfloat16:
        return tl.inline_asm_elementwise(
            _BFLOAT16, "=&r,=&r,=&r,=&r,r", [words], (tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16), True, 2
        )
    elif ASSEMBLY and dtype == tl.float16:
        return tl.inline_asm_elementwise(
            _FLOAT16, "=&r,=&r,=&r,=&r,r", [words], (tl.float16, tl.float16, tl.float16, tl.float16), True, 2
        )
    else:
        scale = unit(dtype)
        first = (((words & 15).to(tl.float32) - 7.5) * scale).to(dtype)
        second = ((((words >> 4) & 15).to(tl.float32) - 7.5) * scale).to(dtype)
        third = ((((words >> 8) & 15).to(tl.float32) - 7.5) * scale).to(dtype)
        fourth = ((((words >> 12) & 15).to(tl.float32) - 7.5) * scale).to(dtype)
        return first, second, third, fourth
