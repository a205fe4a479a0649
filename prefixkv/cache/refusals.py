"""What transformers may ask of a cache and a compressed one refuses, which cannot be rewound and keeps its rows."""

from __future__ import annotations

import torch
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from prefixkv.errors import PrefixKVError
from prefixkv.transformers_compat import cache_argument

CROP = (
    "a compressed cache cannot be cropped, since what it has evicted does not come back: go on from a copy.deepcopy of "
    "it that was taken before; assisted and prompt-lookup decoding crop it, turn them off"
)
ROWS = (
    "the rows of a compressed cache cannot be repeated or chosen: go on from a copy.deepcopy of it for each question, "
    "or ask an Engine, which reads once what several requests begin with"
)
REORDER = "beam search on a compressed cache is not supported: set num_beams=1"


class RefusingLayer(CacheLayerMixin):
    """A cache layer that is written by its owner only."""

    is_sliding = False

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to prepare: buffers are made when their size is known."""
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Refused: the cache that owns the layer decides how its entries are stored."""
        raise PrefixKVError("a compressed layer is written through its PrefixKVCache only")

    def get_max_length(self) -> int:
        """No limit on tokens read."""
        return -1

    get_max_cache_shape = get_max_length

    def crop(self, *args: object) -> None:
        """Refused: evicted entries cannot be brought back."""
        raise PrefixKVError(CROP)

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Refused."""
        raise PrefixKVError(REORDER)

    def batch_repeat_interleave(self, *args: object) -> None:
        """Refused: each row is what it has read."""
        raise PrefixKVError(ROWS)

    batch_select_indices = batch_repeat_interleave


class RefusingCache(Cache):
    """A cache that is read from the beginning to the end, each row by itself.

    Attributes:
        is_croppable: what transformers asks before assisted decoding. Said to be so, that `crop` is called and refuses
            with a line of ours, the same with every version of transformers.
    """

    is_croppable = True

    @property
    def argument(self) -> dict[str, Cache]:
        """This cache as an argument of `generate` or of a model: `model.generate(**inputs, **cache.argument)`."""
        return cache_argument(self)

    def crop(self, *args: object, **kwargs: object) -> None:
        """Refused: evicted entries cannot be brought back."""
        raise PrefixKVError(CROP)

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Refused."""
        raise PrefixKVError(REORDER)

    def batch_repeat_interleave(self, *args: object, **kwargs: object) -> None:
        """Refused: each row is what it has read."""
        raise PrefixKVError(ROWS)

    batch_select_indices = batch_repeat_interleave
