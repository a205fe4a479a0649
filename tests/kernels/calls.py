"""Every operation of the kernel dispatch with the shapes in which the product calls it.

The same table serves two tests: each call is run by the plain twin and by the Triton kernel, and compared; and each
launch that it makes is compiled ahead of time for the GPUs that are supported.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from prefixkv.kernels import dispatch
from prefixkv.kernels.entry_table import COLUMNS, WHOLE_BITS, EntryTable, LayerEntries
from prefixkv.kernels.gathering import Move
from prefixkv.kernels.packed_row import PAIRS, PRECISIONS, key_bits, value_bits
from prefixkv.kernels.packing import pack

Arguments = tuple[Any, ...]


@dataclass(frozen=True)
class Shape:
    """The sizes of a model and of what it reads.

    Attributes:
        name: of the model.
        query_heads: of a layer.
        kv_heads: of a layer.
        head_dim: numbers of a head.
        hidden: numbers of a token between layers.
        inner: numbers of a token inside of SwiGLU.
        tokens: read by a chunk.
        kept: entries that stay of them.
        rows: of a batch.
    """

    name: str
    query_heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    inner: int
    tokens: int
    kept: int
    rows: int = 3


TINY = Shape("tiny", 4, 2, 32, 72, 80, 75, 33)
LLAVA = Shape("llava-1.5-7b", 32, 32, 128, 4096, 11008, 640, 128)
QWEN = Shape("qwen2-vl-7b", 28, 4, 128, 3584, 18944, 640, 128)
DEMO = Shape("demo", 6, 2, 64, 384, 1024, 620, 124)


@dataclass(frozen=True)
class Numbers:
    """Random tensors of one device and dtype, the same on every device.

    Attributes:
        device: where they are.
        dtype: of what the model computes.
        are_real: False where a kernel is only compiled and the memory may hold anything.
    """

    device: torch.device
    dtype: torch.dtype
    are_real: bool = True

    def __call__(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Normally distributed numbers."""
        if not self.are_real:
            return torch.empty(*shape, dtype=dtype or self.dtype, device=self.device)
        generator = torch.Generator().manual_seed(sum(shape))
        return torch.randn(*shape, generator=generator).to(self.device, dtype or self.dtype)

    def importance(self, *shape: int) -> torch.Tensor:
        """Float32, from 0 on, with ties."""
        return (self(*shape, dtype=torch.float32).nan_to_num(0, 0, 0).abs() * 50).clamp(max=9e5).floor() / 50

    def places(self, *shape: int, among: int) -> torch.Tensor:
        """Ascending int64 indices, without repetition, in the last dimension."""
        generator = torch.Generator().manual_seed(sum(shape))
        chosen = torch.rand(*shape[:-1], among, generator=generator).argsort(dim=-1)[..., : shape[-1]]
        return chosen.sort(dim=-1).values.to(self.device)


@dataclass(frozen=True)
class Call:
    """One way in which the product calls an operation.

    Attributes:
        operation: name of the function in `prefixkv.kernels.dispatch`.
        way: what is special about it, for the test's name.
        arguments: made anew for each run, since some operations work in place.
    """

    operation: str
    way: str
    arguments: Callable[[], Arguments]

    def run(self, package: str) -> Any:
        """Call the operation through the dispatch, with the plain twins (`torch`) or the kernels (`triton`) in it.

        Returns:
            What it returns, or the tensors that it changed if it returns nothing.
        """
        chosen, arguments = dispatch.implementation, self.arguments()

        def implementation(operation: str, like: torch.Tensor, name: str | None = None) -> Callable[..., Any]:
            return chosen(operation, like, name or package)

        dispatch.implementation = implementation
        try:
            result = getattr(dispatch, self.operation)(*arguments)
        finally:
            dispatch.implementation = chosen
        return _counted(*arguments) if result is None else result


def calls(shape: Shape, numbers: Numbers) -> Iterator[Call]:
    """All calls that the product makes for a model.

    Args:
        shape: of the model.
        numbers: makes the tensors.
    """
    yield from _scoring(shape, numbers)
    yield from _choosing(shape, numbers)
    yield from _storing(shape, numbers)
    yield from _decoding(shape, numbers)


def _scoring(shape: Shape, numbers: Numbers) -> Iterator[Call]:
    heads, kv_heads, dim, tokens = shape.query_heads, shape.kv_heads, shape.head_dim, shape.tokens
    for rows in (1, shape.rows):
        keys = numbers(rows, kv_heads, tokens, dim)
        for count in (1, 20, tokens):
            queries = numbers(rows, heads, count, dim)
            yield Call(
                "attention_mass",
                f"{rows} rows, {count} queries",
                lambda queries=queries, keys=keys: (queries, keys, 0.1),
            )
    keys = numbers(1, kv_heads, tokens, dim)
    for count, own in ((16, 0), (40, 0), (40, 24)):
        queries = numbers(1, heads, count, dim)
        yield Call(
            "attention_peak",
            f"{count} queries, {own} of the text",
            lambda queries=queries, own=own: (queries, keys, 0.1, own),
        )
    many = numbers(shape.rows, kv_heads, tokens, dim)
    placed = numbers(1, heads, 16, dim)
    yield Call("attention_peak", "one placement for many rows", lambda: (placed, many, 0.1, 0))


def _choosing(shape: Shape, numbers: Numbers) -> Iterator[Call]:
    tokens, kept, kv_heads = shape.tokens, shape.kept, shape.kv_heads
    for rows in (1, kv_heads, shape.rows * kv_heads):
        importance = numbers.importance(rows, tokens)
        yield Call("selection", f"{rows} rows", lambda importance=importance: (importance, kept, 4, 8))
        yield Call("ranking", f"{rows} rows", lambda importance=importance: (importance, 4, 8))
        ordered = importance.sort(dim=-1, descending=True).values
        yield Call("curve", f"2-D, {rows} rows", lambda ordered=ordered: (ordered,))
    for layers in (1, 3):
        ordered = numbers.importance(layers, kv_heads, tokens).sort(dim=-1, descending=True).values
        yield Call("curve", f"3-D, {layers} layers", lambda ordered=ordered: (ordered,))
    ranks = [
        numbers.importance(1, heads, tokens - layer).argsort(dim=-1).argsort(dim=-1).to(torch.int32)
        for layer, heads in enumerate((kv_heads, kv_heads))
    ]
    for count in (1, 2):
        yield Call("first_ranked", f"{count} layers", lambda count=count: (ranks[:count], [kept, kept + 1][:count]))


def _storing(shape: Shape, numbers: Numbers) -> Iterator[Call]:
    tokens, kept, kv_heads, dim = shape.tokens, shape.kept, shape.kv_heads, shape.head_dim

    def move(heads: int, *, chosen: bool, ranked: bool, bits: int | None) -> Move:
        keys, values = (numbers(1, kv_heads, tokens + extra, dim)[:, :, :tokens] for extra in (0, 1))
        if bits is not None:
            keys, values = pack(keys, key_bits(bits)), pack(values, value_bits(bits))
        notes: tuple[torch.Tensor, ...] = (
            torch.arange(tokens, device=numbers.device).expand(1, heads, -1),
            numbers.importance(1, heads, tokens),
        )
        if ranked:
            notes = (
                *notes,
                torch.arange(tokens, dtype=torch.int32, device=numbers.device).expand(1, heads, -1).clone(),
            )
        indices = numbers.places(1, heads, kept, among=tokens) if chosen else None
        return Move(keys, values, notes, indices, kept)

    for heads, chosen, ranked in ((kv_heads, True, True), (1, True, False), (kv_heads, False, False)):
        for bits in (None, *PAIRS):
            way = f"{heads} choices, {'chosen' if chosen else 'the first'}, {bits} bits"
            moves = [move(heads, chosen=chosen, ranked=ranked, bits=None) for _ in range(2)]
            yield Call("gather", way, lambda moves=moves, bits=bits: (moves, bits))
    for bits in PRECISIONS:
        moves = [move(kv_heads, chosen=True, ranked=True, bits=bits)]
        yield Call("gather", f"of entries in {bits} bits", lambda moves=moves: (moves, None))
        for vectors in (numbers(1, kv_heads, tokens, dim), numbers(2, kv_heads, dim)):
            way = f"{bits} bits, {vectors.ndim} dimensions"
            yield Call("pack", way, lambda vectors=vectors, bits=bits: (vectors, bits))


def _decoding(shape: Shape, numbers: Numbers) -> Iterator[Call]:
    heads, kv_heads, dim, hidden, inner = (
        shape.query_heads, shape.kv_heads, shape.head_dim, shape.hidden, shape.inner,
    )  # fmt: skip
    for rows, batches in ((7, 1), (6, 2)):
        parts = numbers(rows, heads * dim), numbers(rows, kv_heads * dim)
        angles = [numbers(batches, rows // batches, dim) for _ in range(2)]
        yield Call(
            "rotary",
            f"{batches} batches of angles",
            lambda parts=parts, angles=angles: (*(part.clone() for part in parts), *angles),
        )
    gain, inner_gain = numbers(hidden), numbers(hidden)
    sizes = (heads * dim, kv_heads * dim, kv_heads * dim)
    gate, up, down = numbers(inner, hidden), numbers(inner, hidden), numbers(hidden, inner)
    # Few rows, some more, and too many for the kernel of few rows.
    for rows in (1, shape.rows, 40, 70):
        row, mixed = numbers(rows, hidden), numbers(rows, inner)
        for biased in (False, True):
            weights = [(numbers(size, hidden), numbers(size) if biased else None) for size in sizes]
            way = f"{rows} rows{', biases' if biased else ''}"
            yield Call("normed_linear", way, lambda row=row, weights=weights: (row, gain, 1e-5, weights))
            bias = numbers(hidden) if biased else None
            yield Call(
                "residual_linear", way, lambda row=row, mixed=mixed, bias=bias: (mixed, (down, bias), row.clone())
            )
        yield Call("swiglu_linear", f"{rows} rows", lambda row=row: (row, inner_gain, 1e-5, gate, up))
    several = shape.rows + 2
    for rows, formats, rotates, softcap in (
        (1, (WHOLE_BITS,), True, None),
        (1, (8,), True, None),
        (1, (4,), True, None),
        (1, (2,), True, None),
        (1, (84,), True, None),
        (1, (42,), True, None),
        (several, (WHOLE_BITS,), True, None),
        (several, (WHOLE_BITS, 8, 4, 2), True, None),
        (several, (WHOLE_BITS, 4), False, 30.0),
    ):
        way = f"{rows} rows of {formats}{'' if rotates else ', rotated, capped'}"
        arguments = functools.partial(_decode_arguments, shape, numbers, rows, formats, rotates, softcap)
        yield Call("decode_attention", way, arguments)
    yield Call("next_slots", "rows in several precisions", lambda: (_table(shape, numbers, 3, (WHOLE_BITS, 8)),))


def _table(shape: Shape, numbers: Numbers, rows: int, formats: tuple[int, ...]) -> EntryTable:
    """Two layers of rows that differ in length and precision; the second of several rows is idle."""
    table = EntryTable(2, rows, numbers.device)
    for row in range(rows):
        if row == 1:
            continue
        bits, kept = formats[row % len(formats)], shape.kept + row
        keys, values = (numbers(1, shape.kv_heads, kept + 3, shape.head_dim) for _ in range(2))
        if bits != WHOLE_BITS:
            keys, values = pack(keys, key_bits(bits)), pack(values, value_bits(bits))
        positions = torch.arange(kept + 3, device=numbers.device).expand(1, shape.kv_heads, -1).contiguous()
        # Each layer counts in a ring of its own.
        orders = [torch.arange(kept + 3, dtype=torch.int32, device=numbers.device) for _ in range(2)]
        counts = {"slot": 5, "kept_tokens": kept, "seen_tokens": kept, "count": kept, "limit": kept}
        layers = [LayerEntries(keys, values, positions, positions.float(), order, bits, **counts) for order in orders]
        table.write(row, layers)
        # On a GPU the table drops them, and only the plain version needs them.
        for layer, entries in zip(table.entries, layers, strict=True):
            layer[row] = entries
    return table


def _counted(table: EntryTable) -> list[torch.Tensor]:
    """What is in a table besides addresses, and its rings."""
    rings = [entries.order for layer in table.entries for entries in layer if entries is not None]
    return [table.cells[..., COLUMNS.index("order") + 1 :], *rings]


def _decode_arguments(
    shape: Shape, numbers: Numbers, rows: int, formats: tuple[int, ...], rotates: bool, softcap: float | None
) -> Arguments:
    heads, kv_heads, dim = shape.query_heads, shape.kv_heads, shape.head_dim
    token = numbers(rows, heads, dim), numbers(rows, kv_heads, dim), numbers(rows, kv_heads, dim)
    angles = (numbers(rows, dim), numbers(rows, dim)) if rotates else (None, None)
    table = _table(shape, numbers, rows, formats)
    return (*token, *angles, dim**-0.5, table, 1, formats, softcap)
