"""Decode attention: the plain version against whole attention, the Triton version against the plain one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
import torch

from prefixkv.kernels.dispatch import implementation
from prefixkv.kernels.entry_table import FINE, WHOLE_BITS, EntryTable, LayerEntries
from prefixkv.kernels.packed_row import PAIRS, key_bits, value_bits
from prefixkv.kernels.packing import STEP_BYTES, pack, unpack
from tests.kernels.precision import assert_precise, noise

pytestmark = pytest.mark.exhaustive(keep=2)

CPU = torch.device("cpu")
LAUNCHERS = "prefixkv.kernels.triton.decode_attention"
Rows = list[LayerEntries | None]


@pytest.fixture
def device(triton_device: torch.device, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """In the interpreter, programs run one after another: few splits are enough."""
    if triton_device.type == "cpu":
        monkeypatch.setattr(f"{LAUNCHERS}.PROGRAMS", 20)
        monkeypatch.setattr(f"{LAUNCHERS}.PACKED_WARPS", 20)
    return triton_device


def entries(
    dtype: torch.dtype,
    device: torch.device,
    kept: int,
    slot: int,
    bits: int = WHOLE_BITS,
    *,
    kv_heads: int,
    head_dim: int,
    choices: int = 1,
    spare: int = 3,
) -> LayerEntries:
    """One row's stored entries in a buffer that is larger than what is in use.

    What lies in the slot and behind is nonsense: not a number, or bytes that would be seen.
    """
    capacity = kept + spare
    keys, values = (
        noise(1, kv_heads, capacity, head_dim, dtype=dtype, device=device, seed=seed + kept, scale=2) for seed in (1, 2)
    )
    for buffer in (keys, values):
        buffer[:, :, kept:] = buffer[:, :, slot] = float("nan")
    if bits != WHOLE_BITS:
        keys, values = pack(keys.nan_to_num(3.0), key_bits(bits)), pack(values.nan_to_num(3.0), value_bits(bits))
    positions = torch.arange(capacity, device=device).expand(1, choices, -1).contiguous()
    importance = torch.ones(1, choices, capacity, device=device)
    order = torch.zeros(capacity, dtype=torch.int32, device=device)
    return LayerEntries(keys, values, positions, importance, order, bits, slot, kept, seen_tokens=1001 + kept)


def with_fine_run(row: LayerEntries, count: int, bits: int, head_dim: int) -> LayerEntries:
    """The same row with further entries, which are only read."""
    shape = (1, row.keys.shape[1], count, head_dim)
    keys, values = (
        pack(noise(*shape, dtype=torch.float32, device=row.keys.device, seed=seed + count, scale=2), each)
        for seed, each in ((5, key_bits(bits)), (6, value_bits(bits)))
    )
    return dataclasses.replace(row, fine_keys=keys, fine_values=values, fine_tokens=count, fine_bits=bits)


def copy(rows: Sequence[LayerEntries | None], dtype: torch.dtype | None = None) -> Rows:
    """The same rows in other memory; in another dtype where they are not packed."""
    return [
        row
        and dataclasses.replace(
            row,
            keys=row.keys.to(dtype if dtype and row.bits == WHOLE_BITS else row.keys.dtype, copy=True),
            values=row.values.to(dtype if dtype and row.bits == WHOLE_BITS else row.values.dtype, copy=True),
            positions=row.positions.clone(),
            importance=row.importance.clone(),
        )
        for row in rows
    ]


def run(name: str, rows: Rows, token: list[torch.Tensor | None], scale: float, **options: object) -> torch.Tensor:
    """Attend in the second of three layers; the others hold buffers that nobody may touch."""
    query = token[0]
    assert query is not None
    table, others = EntryTable(3, len(rows), query.device), copy(rows)
    for place, (row, other) in enumerate(zip(rows, others, strict=True)):
        if row is not None and other is not None:
            layers = [other, row, other]
            table.write(place, layers)
            # On a GPU the table drops them, and only the plain version needs them.
            for layer, stored in zip(table.entries, layers, strict=True):
                layer[place] = stored
    return implementation("decode_attention", query, name)(*token, scale, table, 1, **options)


def token(
    dtype: torch.dtype, device: torch.device, rows: int, query_heads: int, kv_heads: int, head_dim: int
) -> list[torch.Tensor | None]:
    """Query, key, value of one token for each row, as views of one wider tensor; cosine and sine of its angles."""
    width = (query_heads + 2 * kv_heads) * head_dim
    mixed = noise(rows, width, dtype=dtype, device=device, seed=3).unflatten(1, (-1, head_dim))
    parts = mixed.split([query_heads, kv_heads, kv_heads], dim=1)
    angles = noise(rows, head_dim // 2, dtype=torch.float32, device=device, seed=4).repeat(1, 2)
    return [*parts, angles.cos().to(dtype), angles.sin().to(dtype)]


def turned(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """RoPE by complex numbers."""
    half = x.shape[-1] // 2
    pairs = torch.view_as_complex(torch.stack(x.chunk(2, dim=-1), dim=-1))
    product = pairs * torch.complex(cosine, sine)[:, None, :half]
    return torch.cat([product.real, product.imag], dim=-1)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("rotates", [True, False])
def test_plain_version_equals_attention_over_all_entries_of_each_row(rotates: bool, softcap: float | None) -> None:
    shape = {"kv_heads": 2, "head_dim": 16, "choices": 2}
    places = [(1, 0), (2, 1), (50, 49), None, (50, 0), (33, 7)]
    rows: Rows = [place and entries(torch.float32, CPU, *place, **shape) for place in places]
    before = copy(rows)
    query, key, value, cosine, sine = token(torch.float32, CPU, len(rows), 6, 2, 16)
    angles = (cosine, sine) if rotates else (None, None)
    output = run("torch", rows, [query, key, value, *angles], 0.3, softcap=softcap)
    if rotates:
        query, key = turned(query, cosine, sine), turned(key, cosine, sine)
    assert output[3].eq(0).all()
    for row, (stored, old) in enumerate(zip(rows, before, strict=True)):
        if stored is None or old is None:
            continue
        kept, slot = stored.kept_tokens, stored.slot
        keys, values = old.keys[0, :, :kept].clone(), old.values[0, :, :kept].clone()
        keys[:, slot], values[:, slot] = key[row], value[row]
        scores = query[row].reshape(2, 3, 16) @ keys.transpose(-1, -2) * 0.3
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        torch.testing.assert_close(output[row].reshape(2, 3, 16), scores.softmax(-1) @ values)
        torch.testing.assert_close(stored.keys[0, :, :kept], keys)
        assert stored.values[0, :, :kept].equal(values)
        assert stored.positions[..., slot].eq(1000 + kept).all()
        assert stored.importance[..., slot].eq(0).all()
        untouched = torch.arange(kept + 3) != slot
        assert stored.positions[..., untouched].equal(old.positions[..., untouched])
        assert stored.importance[..., untouched].eq(1).all()


def test_a_precision_that_was_not_named_is_refused_by_the_plain_version() -> None:
    rows: Rows = [entries(torch.float32, CPU, 5, 4, 8, kv_heads=2, head_dim=32)]
    with pytest.raises(ValueError, match="row 0 is stored in 8 bits"):
        run("torch", rows, token(torch.float32, CPU, 1, 2, 2, 32), 1.0)


def attended(row: LayerEntries, query: torch.Tensor, scale: float, softcap: float | None) -> torch.Tensor:
    """Attention of a rotated query to a row's entries as they are, in the dtype of the query."""
    stored = [part[0, :, : row.kept_tokens] for part in (row.keys, row.values)]
    keys, values = stored
    if row.bits != WHOLE_BITS:
        keys, values = _unpacked(keys, values, row.bits, query.dtype)
    if row.fine_keys is not None and row.fine_values is not None:
        fine = _unpacked(row.fine_keys[0], row.fine_values[0], row.fine_bits, query.dtype)
        keys, values = (torch.cat(parts, dim=1) for parts in zip(fine, (keys, values), strict=True))
    group = query.shape[0] // keys.shape[0]
    keys, values = (part.to(query.dtype).repeat_interleave(group, dim=0) for part in (keys, values))
    if softcap is None:
        attend = torch.nn.functional.scaled_dot_product_attention
        return attend(query[None, :, None], keys[None], values[None], scale=scale)[0, :, 0]
    logits = (query[:, None] @ keys.transpose(1, 2) * scale).to(torch.promote_types(query.dtype, torch.float32))
    return ((softcap * (logits / softcap).tanh()).softmax(-1).to(query.dtype) @ values)[:, 0]


def _unpacked(
    keys: torch.Tensor, values: torch.Tensor, bits: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    return unpack(keys, key_bits(bits), dtype), unpack(values, value_bits(bits), dtype)


def codes_of(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """The codes of packed rows, one number each."""
    codes = packed[..., :-STEP_BYTES].int()
    return torch.stack([(codes >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)])


def assert_rounded_alike(written: torch.Tensor, specified: torch.Tensor, bits: int) -> None:
    """A number of the new entry that lies between two steps may be rounded to either."""
    difference = (codes_of(written, bits) - codes_of(specified, bits)).abs()
    assert int(difference.max()) <= 1
    assert float(difference.float().mean()) <= 0.02
    steps = [part[..., -STEP_BYTES:].contiguous().view(torch.float16).float() for part in (written, specified)]
    torch.testing.assert_close(steps[0], steps[1], rtol=0.01, atol=0)


def check(
    rows: Rows,
    dtype: torch.dtype,
    device: torch.device,
    group: int,
    softcap: float | None = None,
    rotates: bool = True,
) -> None:
    """Output and buffers of Triton against torch; the error against the same computation in higher precision.

    The new entry of a packed row is compared with the specification's, and the output with attention over the codes
    that were written.
    """
    some = next(row for row in rows if row is not None)
    kv_heads = some.keys.shape[1]
    head_dim = (
        some.keys.shape[3] if some.bits == WHOLE_BITS else (some.keys.shape[3] - STEP_BYTES) * 8 // key_bits(some.bits)
    )
    fresh = token(dtype, device, len(rows), group * kv_heads, kv_heads, head_dim)
    if not rotates:
        fresh[3:] = None, None
    formats = tuple({row.bits for row in rows if row} | {FINE + row.fine_bits for row in rows if row and row.fine_bits})
    scale, options = head_dim**-0.5, {"formats": formats, "softcap": softcap}
    ordinary, exact = copy(rows), copy(rows, torch.float64)
    expected = run("torch", ordinary, fresh, scale, **options)
    output = run("triton", rows, fresh, scale, **options)
    # The angles and the rotated numbers are rounded in all of them, as transformers rounds them.
    best = run("torch", exact, [x if x is None else x.double() for x in fresh], scale, **options)
    over_codes: list[tuple[torch.Tensor, ...]] = []
    query = fresh[0] if not rotates else implementation_rotated(fresh)
    for place, (row, other, ideal) in enumerate(zip(rows, ordinary, exact, strict=True)):
        if row is None or other is None or ideal is None:
            assert output[place].eq(0).all()
            continue
        used = torch.arange(row.keys.shape[2], device=device) < row.kept_tokens
        assert row.positions.equal(other.positions)
        assert row.importance.equal(other.importance)
        if row.bits == WHOLE_BITS:
            assert_precise(output[place], expected[place], best[place])
            assert_precise(row.keys[:, :, used], other.keys[:, :, used], ideal.keys[:, :, used])
            assert row.values[:, :, used].equal(other.values[:, :, used])
            assert row.keys[:, :, ~used].isnan().all()
            continue
        old = torch.arange(row.keys.shape[2], device=device) != row.slot
        of_keys, of_values = key_bits(row.bits), value_bits(row.bits)
        for written, specified, bits in ((row.keys, other.keys, of_keys), (row.values, other.values, of_values)):
            assert written[:, :, old].equal(specified[:, :, old])
            assert_rounded_alike(written[:, :, row.slot], specified[:, :, row.slot], bits)
        over_codes.append(
            (
                output[place],
                attended(row, query[place], scale, softcap),
                attended(row, query[place].double(), scale, softcap),
            )
        )
    if over_codes:
        assert_precise(*map(torch.stack, zip(*over_codes, strict=True)))


def implementation_rotated(fresh: list[torch.Tensor | None]) -> torch.Tensor:
    """The query as the plain version rotates it."""
    query, _, _, cosine, sine = fresh
    assert query is not None
    first, second = query.chunk(2, dim=-1)
    return query * cosine[:, None] + torch.cat([-second, first], dim=-1) * sine[:, None]


SHAPE = {"kv_heads": 2, "head_dim": 64}
LENGTHS = [(1, 0), (2, 0), (63, 62), (64, 63), (65, 64), (65, 0), (129, 128), (300, 7)]


@pytest.mark.parametrize("choices", [1, 2])
def test_any_length_and_slot(dtype: torch.dtype, choices: int, device: torch.device) -> None:
    rows: Rows = [entries(dtype, device, *place, **SHAPE, choices=choices) for place in LENGTHS]
    check(rows, dtype, device, 2)


@pytest.mark.parametrize("group", [1, 3, 7, 8])
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
def test_any_head_size_and_group(dtype: torch.dtype, group: int, head_dim: int, device: torch.device) -> None:
    check([entries(dtype, device, 90, 89, kv_heads=2, head_dim=head_dim)], dtype, device, group)


@pytest.mark.gpu
@pytest.mark.parametrize("kept", [16_383, 16_384, 16_385])
@pytest.mark.parametrize("group", [1, 7])
def test_long_cache(dtype: torch.dtype, kept: int, group: int, device: torch.device) -> None:
    row = entries(dtype, device, kept, 100, kv_heads=2, head_dim=128)
    check([row, *copy([row])], dtype, device, group)


def test_many_rows_need_no_second_kernel(
    dtype: torch.dtype, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{LAUNCHERS}.PROGRAMS", 4)
    rows: Rows = [entries(dtype, device, 100, 39, **SHAPE), None, entries(dtype, device, 1, 0, **SHAPE)]
    check(rows, dtype, device, 1)


@pytest.mark.parametrize("bits", PAIRS)
@pytest.mark.parametrize(("group", "head_dim"), [(1, 128), (3, 64), (8, 32)])
def test_packed_entries(dtype: torch.dtype, bits: int, group: int, head_dim: int, device: torch.device) -> None:
    shape = {"kv_heads": 4, "head_dim": head_dim}
    rows: Rows = [entries(dtype, device, *place, bits, **shape) for place in [(1, 0), (65, 64), (150, 7)]]
    check(rows, dtype, device, group)


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("bits", PAIRS)
@pytest.mark.parametrize(("group", "head_dim"), [(1, 64), (9, 32)])
def test_packed_entries_that_one_program_reads(
    dtype: torch.dtype,
    bits: int,
    group: int,
    head_dim: int,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Block after block, as with many rows; a short cache has a program for each block."""
    monkeypatch.setattr(f"{LAUNCHERS}.PACKED_WARPS", 4)
    shape = {"kv_heads": 4, "head_dim": head_dim}
    rows: Rows = [entries(dtype, device, *place, bits, **shape) for place in [(107, 3), (70, 69)]]
    check(rows, dtype, device, group)


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize("formats", [(8, 42, 2), (WHOLE_BITS, 84), (WHOLE_BITS, *PAIRS)])
def test_rows_of_one_batch_differ_in_precision_length_and_capacity(
    dtype: torch.dtype, formats: tuple[int, ...], device: torch.device
) -> None:
    rows: Rows = [None]
    for number, bits in enumerate(formats):
        rows += [
            entries(dtype, device, 40 * number + 7, 3, bits, **SHAPE, spare=number, choices=1 + number % 2),
            None,
            entries(dtype, device, 130, 129, bits, **SHAPE, spare=50),
        ]
    check(rows, dtype, device, 3)


@pytest.mark.exhaustive(keep=1)
@pytest.mark.parametrize(("group", "head_dim"), [(3, 64), (1, 128)])
def test_rows_with_a_fine_run_beside_rows_without_one(
    dtype: torch.dtype, group: int, head_dim: int, device: torch.device
) -> None:
    shape = {"kv_heads": 2, "head_dim": head_dim}
    places = [(1, 0), (70, 69), (33, 3), (90, 7)]
    rows: Rows = [
        entries(dtype, device, *place, bits, **shape) for place, bits in zip(places, (2, 42, 2, 2), strict=True)
    ]
    mixed = [
        with_fine_run(row, count, bits, head_dim)
        for row, count, bits in zip(rows, (1, 40, 70), (42, 4, 8), strict=False)
        if row is not None
    ]
    check([*mixed, None, rows[3], entries(dtype, device, 20, 0, **shape)], dtype, device, group)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("rotates", [True, False])
def test_capped_logits_and_queries_that_are_rotated_already(
    dtype: torch.dtype, softcap: float | None, rotates: bool, device: torch.device
) -> None:
    rows: Rows = [entries(dtype, device, 70, 20, bits, **SHAPE) for bits in (WHOLE_BITS, 4)]
    check(rows, dtype, device, 2, softcap, rotates)


@pytest.mark.gpu
@pytest.mark.parametrize("bits", PAIRS)
@pytest.mark.parametrize(("group", "head_dim"), [(7, 128), (16, 128), (1, 256)])
def test_long_packed_cache(dtype: torch.dtype, bits: int, group: int, head_dim: int, device: torch.device) -> None:
    # Of a head all errors go with those of its largest scores: few heads are few samples of the largest error.
    shape = {"kv_heads": 16, "head_dim": head_dim}
    rows: Rows = [entries(dtype, device, *place, bits, **shape) for place in [(16_385, 100), (9_000, 8_999)]]
    check(rows, dtype, device, group)
