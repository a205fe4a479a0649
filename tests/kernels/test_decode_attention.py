"""Decode attention: the plain version against whole attention, the Triton version against the plain one."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from prefixkv.kernels.dispatch import implementation
from prefixkv.kernels.entry_table import EntryTable, LayerEntries
from prefixkv.kernels.packing import STEP_BYTES, pack, unpack
from tests.kernels.precision import assert_precise, noise

pytestmark = pytest.mark.exhaustive(keep=8)

CPU = torch.device("cpu")


def entries(
    dtype: torch.dtype,
    device: torch.device,
    kept: int,
    slot: int,
    *,
    batch: int,
    kv_heads: int,
    head_dim: int,
    choices: int,
) -> LayerEntries:
    """Stored entries in a buffer that is larger than what is in use; what lies in the slot and behind is nonsense."""
    capacity = kept + 3
    keys, values = (
        noise(batch, kv_heads, capacity, head_dim, dtype=dtype, device=device, seed=seed, scale=2) for seed in (1, 2)
    )
    for buffer in (keys, values):
        buffer[:, :, kept:] = float("nan")
        buffer[:, :, slot] = float("nan")
    positions = torch.arange(capacity, device=device).expand(batch, choices, -1).contiguous()
    importance = torch.ones(batch, choices, capacity, device=device)
    return LayerEntries(keys, values, positions, importance, slot, kept, position=1000 + kept)


def copy(stored: LayerEntries, dtype: torch.dtype) -> LayerEntries:
    return dataclasses.replace(
        stored,
        keys=stored.keys.to(dtype, copy=True),
        values=stored.values.to(dtype, copy=True),
        positions=stored.positions.clone(),
        importance=stored.importance.clone(),
    )


def run(name: str, stored: LayerEntries, token: list[torch.Tensor], scale: float, **options: object) -> torch.Tensor:
    table = EntryTable(3, stored.keys.device)
    other = copy(stored, stored.keys.dtype)
    layers = [other, stored, other]
    table.upload(layers)
    # On a GPU the table drops them, and only the plain version needs them.
    table.layers = layers
    return implementation("decode_attention", stored.keys, name)(*token, scale, table, 1, **options)


def token(dtype: torch.dtype, device: torch.device, batch: int, query_heads: int, kv_heads: int, head_dim: int):
    """Query, key, value of one token for each row, as views of one wider tensor; cosine and sine of its angles."""
    width = (query_heads + 2 * kv_heads) * head_dim
    mixed = noise(batch, width, dtype=dtype, device=device, seed=3)
    parts = mixed.split([query_heads * head_dim, kv_heads * head_dim, kv_heads * head_dim], dim=1)
    angles = noise(batch, head_dim // 2, dtype=torch.float32, device=device, seed=4).repeat(1, 2)
    return [*parts, angles.cos().to(dtype), angles.sin().to(dtype)]


@pytest.mark.parametrize(("kept", "slot"), [(1, 0), (2, 1), (50, 49), (50, 0), (50, 7)])
def test_plain_version_equals_attention_over_all_entries(kept: int, slot: int) -> None:
    stored = entries(torch.float32, CPU, kept, slot, batch=2, kv_heads=2, head_dim=16, choices=2)
    before = copy(stored, torch.float32)
    query, key, value, cosine, sine = token(torch.float32, CPU, 2, 6, 2, 16)
    output = run("torch", stored, [query, key, value, cosine, sine], 0.3).reshape(2, 2, 3, 16)

    def rotated(x: torch.Tensor) -> torch.Tensor:
        pairs = torch.view_as_complex(torch.stack(x.reshape(2, -1, 16).chunk(2, dim=-1), dim=-1))
        turned = pairs * torch.complex(cosine, sine)[:, None, :8]
        return torch.cat([turned.real, turned.imag], dim=-1)

    keys, values = before.keys[:, :, :kept].clone(), before.values[:, :, :kept].clone()
    keys[:, :, slot], values[:, :, slot] = rotated(key), value.reshape(2, 2, 16)
    scores = rotated(query).reshape(2, 2, 3, 16) @ keys.transpose(-1, -2) * 0.3
    torch.testing.assert_close(output, scores.softmax(-1) @ values)
    torch.testing.assert_close(stored.keys[:, :, :kept], keys)
    assert stored.values[:, :, :kept].equal(values)
    assert stored.positions[..., slot].eq(1000 + kept).all()
    assert stored.importance[..., slot].eq(0).all()
    untouched = torch.arange(kept + 3) != slot
    assert stored.positions[..., untouched].equal(before.positions[..., untouched])
    assert stored.importance[..., untouched].eq(1).all()


def check(dtype: torch.dtype, device: torch.device, kept: int, slot: int, group: int, **shape: int) -> None:
    """Output and buffers of Triton against torch; the error against the same computation in higher precision."""
    stored = entries(dtype, device, kept, slot, **shape)
    batch, kv_heads, head_dim = shape["batch"], shape["kv_heads"], shape["head_dim"]
    fresh = token(dtype, device, batch, group * kv_heads, kv_heads, head_dim)
    ordinary, exact = copy(stored, dtype), copy(stored, torch.float64)
    expected = run("torch", ordinary, fresh, head_dim**-0.5)
    # The angles and the rotated numbers are rounded in both, as transformers rounds them.
    output = run("triton", stored, fresh, head_dim**-0.5)
    best = run("torch", exact, [x.double() for x in fresh], head_dim**-0.5)
    assert_precise(output, expected, best)
    used = torch.arange(kept + 3, device=device) < kept
    assert_precise(stored.keys[:, :, used], ordinary.keys[:, :, used], exact.keys[:, :, used])
    assert stored.values[:, :, used].equal(ordinary.values[:, :, used])
    assert stored.positions.equal(ordinary.positions)
    assert stored.importance.equal(ordinary.importance)
    assert stored.keys[:, :, ~used].isnan().all()


SHAPE = {"batch": 2, "kv_heads": 2, "head_dim": 64, "choices": 2}


@pytest.mark.parametrize(
    ("kept", "slot"), [(1, 0), (2, 0), (63, 62), (64, 63), (65, 64), (65, 0), (129, 128), (300, 7)]
)
@pytest.mark.parametrize("choices", [1, 2])
def test_any_length_and_slot(
    dtype: torch.dtype, kept: int, slot: int, choices: int, triton_device: torch.device
) -> None:
    check(dtype, triton_device, kept, slot, 2, **{**SHAPE, "choices": choices})


@pytest.mark.parametrize("group", [1, 3, 7, 8])
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
def test_any_head_size_and_group(dtype: torch.dtype, group: int, head_dim: int, triton_device: torch.device) -> None:
    check(dtype, triton_device, 90, 89, group, **{**SHAPE, "batch": 1, "head_dim": head_dim})


@pytest.mark.gpu
@pytest.mark.parametrize("kept", [16_383, 16_384, 16_385])
@pytest.mark.parametrize("group", [1, 7])
def test_long_cache(dtype: torch.dtype, kept: int, group: int, triton_device: torch.device) -> None:
    check(dtype, triton_device, kept, 100, group, **{**SHAPE, "head_dim": 128})


def test_many_rows_need_no_second_kernel(
    dtype: torch.dtype, triton_device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefixkv.kernels.triton.decode_attention.PROGRAMS", 4)
    check(dtype, triton_device, 40, 39, 1, **SHAPE)


def packed(dtype: torch.dtype, device: torch.device, kept: int, slot: int, bits: int, **shape: int) -> LayerEntries:
    """As `entries`, packed; what is not in use is bytes that would be seen."""
    plain = entries(torch.float32, device, kept, slot, **shape)
    keys, values = (pack(buffer.nan_to_num(3.0).to(dtype), bits) for buffer in (plain.keys, plain.values))
    return dataclasses.replace(plain, keys=keys, values=values)


def codes_of(rows: torch.Tensor, bits: int) -> torch.Tensor:
    """The codes of packed rows, one number each."""
    codes = rows[..., :-STEP_BYTES].int()
    return codes if bits == 8 else torch.cat([codes & 15, codes >> 4], dim=-1)


def attended(
    stored: LayerEntries, query: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor, scale: float, bits: int
):
    """Attention over packed entries as they are, in the dtype of the query: the kernel's own part."""
    keys, values = (
        unpack(part[:, :, : stored.kept_tokens], bits, query.dtype) for part in (stored.keys, stored.values)
    )
    heads = query.reshape(query.shape[0], -1, keys.shape[3])
    first, second = heads.chunk(2, dim=-1)
    turned = heads * cosine[:, None] + torch.cat([-second, first], dim=-1) * sine[:, None]
    keys, values = (part.repeat_interleave(heads.shape[1] // part.shape[1], dim=1) for part in (keys, values))
    output = torch.nn.functional.scaled_dot_product_attention(turned[:, :, None], keys, values, scale=scale)
    return output.reshape(query.shape)


def check_packed(
    dtype: torch.dtype, device: torch.device, bits: int, kept: int, slot: int, group: int, head_dim: int
) -> None:
    """As `check`, for packed entries.

    A number of the new entry that lies between two steps may be rounded to either, so its codes are compared with the
    specification's, and the output with attention over the codes that were written.
    """
    shape = {"batch": 2, "kv_heads": 2, "head_dim": head_dim, "choices": 1}
    stored = packed(dtype, device, kept, slot, bits, **shape)
    fresh = token(dtype, device, 2, 2 * group, 2, head_dim)
    ordinary, scale = copy(stored, torch.uint8), head_dim**-0.5
    run("torch", ordinary, fresh, scale, bits=bits)
    output = run("triton", stored, fresh, scale, bits=bits)
    others = torch.arange(kept + 3, device=device) != slot
    for written, specified in ((stored.keys, ordinary.keys), (stored.values, ordinary.values)):
        assert written[:, :, others].equal(specified[:, :, others])
        new, expected = (codes_of(rows[:, :, slot], bits) for rows in (written, specified))
        difference = (new - expected).abs()
        assert int(difference.max()) <= 1
        assert float(difference.float().mean()) <= 0.02
        steps = [
            rows[:, :, slot, -STEP_BYTES:].contiguous().view(torch.float16).float() for rows in (written, specified)
        ]
        torch.testing.assert_close(steps[0], steps[1], rtol=0.01, atol=0)
    assert stored.positions.equal(ordinary.positions)
    assert stored.importance.equal(ordinary.importance)
    query, _, _, cosine, sine = fresh
    same = attended(stored, query, cosine, sine, scale, bits)
    exact = attended(stored, query.double(), cosine.double(), sine.double(), scale, bits)
    assert_precise(output, same, exact)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("kept", "slot"), [(1, 0), (65, 64), (150, 7)])
@pytest.mark.parametrize(("group", "head_dim"), [(1, 128), (3, 64), (8, 32)])
def test_packed_entries(
    dtype: torch.dtype, bits: int, kept: int, slot: int, group: int, head_dim: int, triton_device: torch.device
) -> None:
    check_packed(dtype, triton_device, bits, kept, slot, group, head_dim)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("group", "head_dim"), [(1, 64), (9, 32)])
def test_packed_entries_that_one_program_reads(
    dtype: torch.dtype,
    bits: int,
    group: int,
    head_dim: int,
    triton_device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Block after block, as with many rows; a short cache has a program for each block."""
    monkeypatch.setattr("prefixkv.kernels.triton.packed_attention.PACKED_PROGRAMS", 4)
    check_packed(dtype, triton_device, bits, 107, 3, group, head_dim)


@pytest.mark.gpu
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("group", "head_dim"), [(7, 128), (16, 128), (1, 256)])
def test_long_packed_cache(
    dtype: torch.dtype, bits: int, group: int, head_dim: int, triton_device: torch.device
) -> None:
    if dtype == torch.float32 and head_dim == 256:
        pytest.skip("the rotation of such heads in float32 does not fit into shared memory")
    check_packed(dtype, triton_device, bits, 16_385, 100, group, head_dim)
