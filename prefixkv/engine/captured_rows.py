"""Rows that are decoded by replays of a captured step: what the entry table is told of them, and when.

A step counts on the device. The host writes a row's cells when it comes, when its buffers have grown, and when somebody
else had the table; between those it only counts steps, and a row catches up when it is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from prefixkv.cache.row import CacheRow
from prefixkv.decoder.captured import CapturedStep, on
from prefixkv.decoder.forward_step import LEFT_LAYERS
from prefixkv.decoder.refusal import NotCapturableError
from prefixkv.decoder.stages import layer_devices
from prefixkv.generation.places import place_index
from prefixkv.kernels.dispatch import triton_obstacle
from prefixkv.kernels.entry_table import FINE, RELEASE, SHARE, WHOLE_BITS, LayerEntries
from prefixkv.policy.precision import FINE_OF

AHEAD = 256
"""Tokens for which room is made when a buffer is full; more where more were generated already."""
PACKED_HEAD = 32
"""Smallest head whose packed halves the matrix units take; a power of two it must be."""


class CapturedRows:
    """The rows of one batch, which come and go.

    Attributes:
        rows: by place; None where a place is free.
    """

    def __init__(self, model: Any, most_rows: int, is_steady: bool = False) -> None:
        """Nobody is here yet.

        Args:
            model: on one device or several.
            most_rows: rows at the same time.
            is_steady: whether the step is always the one for so many rows, and for all precisions that have occurred
                here, so that its rounding does not depend on which steps were captured before.
        """
        self._model, self._device, self._layer_devices = model, model.device, layer_devices(model)
        self._is_steady, self._formats = is_steady, tuple[int, ...]()
        self.rows: list[CacheRow | None] = [None] * most_rows
        self._offsets = torch.zeros(1 << (most_rows - 1).bit_length(), dtype=torch.int64, device=self._device)
        self._step: CapturedStep | None = None
        self._load: tuple[int, tuple[int, ...]] | None = None
        # Of the rows that are in the table: the version that was written, and the steps until a buffer is full.
        self._versions: dict[int, int] = {}
        self._left: dict[int, int] = {}

    def join(self, place: int, row: CacheRow) -> None:
        """Take a row in; it is written to the table when the next step is queued.

        Args:
            place: a free one.
            row: has read a prompt.

        Raises:
            NotCapturableError: the row or the model cannot be decoded in this way; nothing has changed.
        """
        if reason := obstacle(row, self._device):
            raise NotCapturableError.because(reason)
        if not self.places:
            with on(self._device):
                CapturedStep.require(self._model, 1 << place.bit_length(), formats_of([row]))
        for layer, device in zip(row.layers, self._layer_devices, strict=False):
            # What was restored of a model over several devices is on the first of them.
            layer.follow(device)
        self.rows[place] = row

    def leave(self, place: int) -> None:
        """Let a row go; what its steps have stored is its own."""
        self.rows[place] = None
        if self._versions.pop(place, None) is not None and self._step is not None:
            with self._step.lock:
                if self._step.claim(self):
                    self._versions.clear()
                else:
                    self._step.clear(place)

    @property
    def places(self) -> list[int]:
        """Places that are taken, ascending."""
        return [place for place, row in enumerate(self.rows) if row is not None]

    @torch.no_grad()
    def advance(self, tokens: torch.Tensor) -> torch.Tensor:
        """Queue the step that reads a token of each row; the host does not wait.

        Args:
            tokens: (places,), int64, by place; at least as many as there are places up to the last one taken.

        Returns:
            Logits, (rows, vocabulary), float32, in the order of `places`.

        Raises:
            BudgetTooSmallError: a method keeps everything and the budget is used up; no row has read its token.
        """
        present = [(place, row) for place, row in enumerate(self.rows) if row is not None]
        for _, row in present:
            row.check_step()
        step = self._chosen_step(present)
        with step.lock, on(self._device):
            if step.claim(self):
                self._versions.clear()
            for place, row in present:
                if self._versions.get(place) != row.version or not self._left[place]:
                    self._write(step, place, row)
                self._left[place] -= 1
                row.count_step()
            logits = step.replay(tokens[: step.rows], self._offsets[: step.rows])
            at = place_index(tuple(place for place, _ in present), self._device)
            return logits[at].clone() if isinstance(at, slice) else logits[at]

    def _chosen_step(self, present: Sequence[tuple[int, CacheRow]]) -> CapturedStep:
        """The smallest step with room for the rows that are here, in the precisions that occur.

        Where rows have gone, a smaller one is taken if it was captured before. A row that comes to others which need
        the same step has it as it is: whether the weights are where they were is looked at when the first row comes.
        """
        load = self._wanted_load(present)
        is_new = [self._versions.get(place) != row.version for place, row in present]
        stays = (
            not all(is_new) if load == self._load else not (any(is_new) or CapturedStep.is_ready(self._model, *load))
        )
        if stays and self._step is not None:
            return self._step
        with on(self._device):
            step = CapturedStep.of(self._model, *load)
            with step.lock:
                if step is not self._step and step.claim(self, self._step):
                    self._versions.clear()
        self._step, self._load = step, load
        return step

    def _wanted_load(self, present: Sequence[tuple[int, CacheRow]]) -> tuple[int, tuple[int, ...]]:
        """Rows of a step, and the precisions that it knows."""
        formats = formats_of(row for _, row in present)
        if not self._is_steady:
            return 1 << present[-1][0].bit_length(), formats
        self._formats = tuple(sorted({*self._formats, *formats}, reverse=True))
        return self._offsets.shape[0], self._formats

    def _write(self, step: CapturedStep, place: int, row: CacheRow) -> None:
        """Tell the table of a row, which has room for some tokens then; buffers that have room stay as they are."""
        generated = row.seen_tokens - row.layers[0].anchor_seen
        self._left[place] = row.reserve(0) or row.reserve(max(AHEAD, generated))
        offset = 0 if row.next_positions is None else row.next_positions[0] - row.seen_tokens
        self._offsets[place] = offset
        step.write(place, entries(row))
        self._versions[place] = row.version


def formats_of(rows: Iterable[CacheRow]) -> tuple[int, ...]:
    """Precisions that occur in rows, as a captured step is asked for them."""
    every = list(rows)
    formats = {row.bits or WHOLE_BITS for row in every} | {FINE + FINE_OF[row.bits or 0] for row in every if row.fine}
    return tuple(sorted(formats, reverse=True))


def entries(row: CacheRow) -> list[LayerEntries]:
    """What the entry table is told of a row, one for each layer."""
    found = []
    for index, layer in enumerate(row.layers):
        limit = row.decode_limit(index)
        kind = limit.fixed if limit.fixed is not None else RELEASE if limit.is_release else SHARE
        keys, values, positions, importance, order = (
            layer.keys,
            layer.values,
            layer.positions,
            layer.importance,
            layer.order,
        )
        assert keys is not None
        assert values is not None
        assert positions is not None
        assert importance is not None
        assert order is not None
        found.append(
            LayerEntries(
                keys,
                values,
                positions,
                importance,
                order,
                layer.bits or WHOLE_BITS,
                kept_tokens=layer.kept_tokens,
                seen_tokens=layer.seen_tokens,
                anchor_seen=limit.anchor_seen,
                anchor_kept=limit.anchor_kept,
                limit=kind,
                head=layer.head,
                count=layer.count,
                fine_keys=layer.fine.keys if layer.fine.kept_tokens else None,
                fine_values=layer.fine.values if layer.fine.kept_tokens else None,
                fine_tokens=layer.fine.kept_tokens,
                fine_bits=layer.fine.bits or 0,
                beside=limit.beside,
            )
        )
    return found


def obstacle(row: CacheRow, device: torch.device) -> str | None:
    """Why a row cannot be decoded by the captured step; None where it can.

    Args:
        row: has read a prompt.
        device: of the model.
    """
    if reason := device_obstacle(device):
        return reason
    if row.windows or row.states or row.geometry.bare_layers:
        return LEFT_LAYERS
    if row.method.positions != "true":
        return f"method {row.method.name!r} has positions of its own"
    for layer in row.layers:
        if layer.arriving is not None or layer.keys is None or layer.values is None:
            return "it has not read a prompt"
        buffers = (layer.keys, layer.values, layer.positions, layer.importance)
        fine = layer.fine.tensors[:2]
        if not all(buffer is not None and buffer.is_contiguous() for buffer in (*buffers, *fine)):
            return "its buffers are not contiguous"
        if layer.bits != row.bits:
            return "its layers are packed in different ways"
        if layer.bits is not None and (layer.head_dim < PACKED_HEAD or layer.head_dim & (layer.head_dim - 1)):
            return f"it is packed in heads of {layer.head_dim}"
    return None


def device_obstacle(device: torch.device) -> str | None:
    """Why nothing can be captured on a device; None where it can."""
    if device.type != "cuda":
        return f"a step on {device} cannot be captured: that needs a CUDA device"
    if missing := triton_obstacle():
        return f"scoring and decoding take plain torch, which is slower: {missing}"
    return None
