"""Steps of rows that come and go, each of which is told the token that it reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.cache.row import CacheRow
from prefixkv.decoder.refusal import NotCapturableError
from prefixkv.engine.captured_rows import CapturedRows
from prefixkv.engine.stepper import tell_once
from prefixkv.generation.forward import read_tokens
from prefixkv.kernels.dispatch import plain_path_is_wanted
from prefixkv.models.loading import Notify


class GivenSteps:
    """Reads a token of each of some rows at a time.

    On a CUDA device a step is the replay of a captured one, always of that for all places and for every precision that
    has occurred here: kernels divide their work by both, so that figures would otherwise depend, in their last digits,
    on what else was captured before. Rows that cannot be captured, and all on other devices, take transformers' own
    forward pass.
    """

    def __init__(self, model: PreTrainedModel, places: int, notify: Notify, captured: bool | None = None) -> None:
        """Nobody is here yet.

        Args:
            model: inside `prefixkv.cache.attention.installed`.
            places: rows that may read at the same time.
            notify: told why, once for each model, where a step that should be captured is not.
            captured: whether steps are captured; None: on a CUDA device, unless PREFIXKV_CAPTURE=0 is in the
                environment.
        """
        self._model, self._notify = model, notify
        if captured is None:
            captured = model.device.type == "cuda" and not plain_path_is_wanted()
        self._captured = CapturedRows(model, places, is_steady=True) if captured else None
        self._places: dict[CacheRow, int] = {}
        self._plain: list[CacheRow] = []
        self._plain_view: PrefixKVCache | None = None

    def read(self, reading: Sequence[tuple[CacheRow, int]]) -> torch.Tensor:
        """Read a token of each row; rows that do not read have left, and may come again.

        Args:
            reading: rows, no more than there are places, and the token of each.

        Returns:
            Logits of the next token, (rows, vocabulary), float32, in the same order.
        """
        self._admit([row for row, _ in reading])
        captured = [(self._places[row], at) for at, (row, _) in enumerate(reading) if row in self._places]
        plain = [at for at, (row, _) in enumerate(reading) if row not in self._places]
        parts = [self._replayed(reading, captured)] if captured else []
        parts += [self._forward([reading[at] for at in plain])] if plain else []
        if len(parts) == 1 and (plain or [at for _, at in sorted(captured)] == list(range(len(reading)))):
            return parts[0]
        order = [at for _, at in sorted(captured)] + plain
        back = sorted(range(len(order)), key=order.__getitem__)
        return torch.cat(parts)[torch.tensor(back, device=self._model.device)]

    def _admit(self, rows: Sequence[CacheRow]) -> None:
        """See rows off that do not read, and give places to those that are new."""
        if self._captured is None:
            return
        present = set(rows)
        for row in [row for row in self._places if row not in present]:
            self._captured.leave(self._places.pop(row))
        taken = set(self._places.values())
        free = (place for place in range(len(self._captured.rows)) if place not in taken)
        for row in rows:
            if row in self._places:
                continue
            place = next(free)
            try:
                self._captured.join(place, row)
            except NotCapturableError as error:
                tell_once(self._model, str(error), self._notify)
            else:
                self._places[row] = place

    def _replayed(self, reading: Sequence[tuple[CacheRow, int]], captured: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Logits of the rows that have places, by place."""
        assert self._captured is not None
        tokens = [0] * len(self._captured.rows)
        for place, at in captured:
            tokens[place] = reading[at][1]
        return self._captured.advance(torch.tensor(tokens, device=self._model.device))

    def _forward(self, reading: Sequence[tuple[CacheRow, int]]) -> torch.Tensor:
        """Logits of the others, in order."""
        rows = [row for row, _ in reading]
        if self._plain_view is None or self._plain != rows:
            self._plain, self._plain_view = rows, PrefixKVCache.of_rows(rows)
        return read_tokens(
            self._model, self._plain_view, torch.tensor([token for _, token in reading]).to(self._model.device)
        )
