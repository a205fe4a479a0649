"""Look-ahead queries: what a model really asked while it answered, kept to guide what it will be able to ask later.

They are recorded while profiling, before RoPE, and placed behind a prompt when its entries are scored. Without a
profile a sample of the prompt's own queries stands for them, where they are and once more behind the prompt.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import safetensors.torch
import torch
from safetensors import SafetensorError

from prefixkv.errors import PrefixKVError
from prefixkv.methods.evidence import sampled_places
from prefixkv.methods.method import Method
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.precision import Losses
from prefixkv.policy.rotary import Rotation

QUERIES = 128
"""Queries that a profile keeps for every layer and head."""
SPREAD = 64
"""Places behind a prompt over which its own queries are spread."""
TOGETHER = 8
"""Layers whose queries are turned in one go."""
IN_ONE_GO = 2048
"""Queries of a prompt that are moved behind it in one go."""


@dataclass
class LookAhead:
    """Recorded queries and the rotation that places them.

    Attributes:
        queries: for each compressed layer (query_heads, count, head_dim), before RoPE; none where a prompt's own
            queries stand for them.
        offsets: (count,), int64: how far behind the prompt each was asked.
        rotation: of the model that asked them.
        losses: what the model loses when entries are packed or evicted, as the profile says.
    """

    queries: Sequence[torch.Tensor]
    offsets: torch.Tensor
    rotation: Rotation
    losses: Losses = field(default_factory=Losses)

    @classmethod
    def of_prompts(cls, model: torch.nn.Module) -> LookAhead:
        """Without recorded queries: every prompt's own stand for them.

        Args:
            model: that asks them.

        Raises:
            PrefixKVError: the model's rotation is not known.
        """
        return cls((), torch.empty(0, dtype=torch.int64), Rotation(model))

    @property
    def is_recorded(self) -> bool:
        """Whether the queries are a profile's."""
        return bool(self.queries)

    def own(self, queries: torch.Tensor) -> torch.Tensor:
        """A sample of a chunk's queries, as they are and moved up to `SPREAD` places behind the chunk.

        Args:
            queries: (1, query_heads, chunk_len, head_dim), after RoPE, in any place.

        Returns:
            (1, query_heads, count, head_dim).
        """
        places = sampled_places(queries.shape[2], queries.device)
        steps = queries.shape[2] - places + _offsets(len(places), queries.device)
        sampled = queries[:, :, places]
        return torch.cat([sampled, self.rotation.advance(sampled[0], steps)[None]], dim=2)

    def used_by(self, method: Method) -> LookAhead | None:
        """What of it a method uses: all, no more than the model's rotation, or nothing."""
        if method.is_guided:
            return self
        return LookAhead((), torch.empty(0, dtype=torch.int64), self.rotation) if method.moves else None

    def gathered(self, layer: int, queries: torch.Tensor, position: int) -> torch.Tensor:
        """The queries that stand for what is asked next, all turned to the place behind a chunk.

        Args:
            layer: number among the compressed layers.
            queries: (1, query_heads, chunk_len, head_dim), after RoPE: the chunk's own, which stand for what is asked
                where none are recorded. How far they are moved counts tokens.
            position: of the token behind the chunk, where recorded queries are placed.

        Returns:
            (1, query_heads, count, head_dim), float32.
        """
        device = queries.device
        if self.is_recorded:
            recorded = self.queries[layer].to(device, torch.float32)
            return self.rotation.turn(recorded, torch.full((recorded.shape[1],), position, device=device))[None]
        # Turning takes several times the memory of what is turned.
        steps = torch.arange(queries.shape[2], 0, -1, device=device).split(IN_ONE_GO)
        parts = zip(queries[0].split(IN_ONE_GO, dim=1), steps, strict=True)
        return torch.cat([self.rotation.advance(part.float(), step) for part, step in parts], dim=1)[None]

    @classmethod
    def read(cls, payload: bytes, model: torch.nn.Module, geometry: KVGeometry, losses: Losses) -> LookAhead:
        """Take them from a profile's safetensors.

        Args:
            payload: the file's content.
            model: what they were recorded from.
            geometry: its KV shape.
            losses: see the attribute.

        Raises:
            PrefixKVError: the content is broken or of another model, or the model's rotation is not known.
        """
        rotation = Rotation(model)
        try:
            tensors = safetensors.torch.load(payload)
            offsets = tensors.pop("offsets")
            queries = [tensors[f"layer.{index}"] for index in range(geometry.layers)]
        except (SafetensorError, KeyError, ValueError) as error:
            raise PrefixKVError(f"the profile's look-ahead queries are broken: {error}") from None
        shape = queries[0].shape
        fits = len(shape) == 3 and shape[0] % geometry.kv_heads == 0
        fits = fits and (geometry.is_latent or shape[2] == geometry.head_dim)
        if not fits or offsets.shape != shape[1:2] or any(layer.shape != shape for layer in queries):
            raise PrefixKVError("the profile's look-ahead queries have the shape of another model")
        device, dtype = next(model.parameters()).device, getattr(torch, geometry.dtype)
        queries = [layer.to(device, dtype) for layer in queries]
        return cls(queries, offsets.to(device, torch.int64), rotation, losses)


@functools.lru_cache(maxsize=8)
def _offsets(count: int, device: torch.device) -> torch.Tensor:
    # It outlives the call, so it must be an ordinary tensor even where the call is in inference mode.
    with torch.inference_mode(False):
        return torch.randint(0, SPREAD, (count,), generator=torch.Generator().manual_seed(0)).to(device)


class PlacedQueries:
    """Look-ahead queries behind one prompt, turned for several layers at once: few operations, and little memory."""

    def __init__(self, look_ahead: LookAhead, position: int) -> None:
        """Turn nothing yet.

        Args:
            look_ahead: the queries.
            position: of the token behind the prompt.
        """
        self._look_ahead, self._position = look_ahead, position
        self._first, self._turned = 0, torch.empty(0)

    def __getitem__(self, layer: int) -> torch.Tensor:
        """A layer's queries, (1, query_heads, count, head_dim), after RoPE."""
        if not self._first <= layer < self._first + len(self._turned):
            self._turn(layer)
        return self._turned[layer - self._first][None]

    def _turn(self, layer: int) -> None:
        self._first = layer // TOGETHER * TOGETHER
        together = torch.stack(list(self._look_ahead.queries[self._first : self._first + TOGETHER]))
        offsets = self._look_ahead.offsets + self._position
        self._turned = self._look_ahead.rotation.turn(together.flatten(0, 1), offsets).view(together.shape)


QueryParts = tuple[list[list[torch.Tensor]], list[int], list[int]]
"""For each layer the queries of each token, then the tokens' positions and their offsets in the answers."""


class QueryRecorder:
    """Collects the queries of answers.

    Attributes:
        rotation: of the model.
    """

    def __init__(self, rotation: Rotation, layers: int) -> None:
        self.rotation = rotation
        self._queries: list[list[torch.Tensor]] = [[] for _ in range(layers)]
        self._positions: list[int] = []
        self._offsets: list[int] = []

    @property
    def is_empty(self) -> bool:
        """Whether no answer had a second token."""
        return not self._offsets

    def add(self, layer: int, queries: torch.Tensor, position: int, offset: int) -> None:
        """Take in one token's queries of one layer.

        Args:
            layer: number among the compressed layers.
            queries: (1, query_heads, 1, head_dim), after RoPE.
            position: of the token.
            offset: how many tokens of the answer came before it.
        """
        self._queries[layer].append(queries[0])
        if layer == 0:
            self._positions.append(position)
            self._offsets.append(offset)

    @property
    def parts(self) -> QueryParts:
        """What was collected, in host memory, to be sent to another process."""
        return [[token.cpu() for token in layer] for layer in self._queries], self._positions, self._offsets

    def absorb(self, parts: QueryParts, device: torch.device) -> None:
        """Take in what another recorder of the same model has collected, behind what is here.

        Args:
            parts: the other's.
            device: of the model.
        """
        queries, positions, offsets = parts
        for own, more in zip(self._queries, queries, strict=True):
            own.extend(token.to(device) for token in more)
        self._positions += positions
        self._offsets += offsets

    def payload(self, seed: int = 0) -> tuple[bytes, int]:
        """A sample of what was collected, the same tokens in every layer, as safetensors in float16.

        Args:
            seed: of the sample.

        Returns:
            The content, and how many queries a layer has. There is one at least.
        """
        order = torch.randperm(len(self._offsets), generator=torch.Generator().manual_seed(seed))
        chosen = order[:QUERIES].sort().values.tolist()
        positions = torch.tensor([self._positions[token] for token in chosen])
        tensors = {}
        for index, layer in enumerate(self._queries):
            asked = torch.cat([layer[token].to(layer[0].device) for token in chosen], dim=1).float()
            tensors[f"layer.{index}"] = self.rotation.turn(asked, positions, back=True).half().cpu().contiguous()
        tensors["offsets"] = torch.tensor([self._offsets[token] for token in chosen], dtype=torch.int32)
        return safetensors.torch.save(tensors), len(chosen)
