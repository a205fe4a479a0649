"""A model's own rotation of queries by their position (RoPE), applied to any position and undone.

Reads the model's module of angles and the function beside it that applies them, so that every convention works which
rotates pairs of elements.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from prefixkv.errors import PrefixKVError
from prefixkv.models.geometry import KVGeometry
from prefixkv.transformers_compat import decoder_of, layer_config, rotation_of, setting

AXES = 3
TOLERANCE = 1e-3
TOGETHER = 64
"""Places to which the axes of a head are moved in one go."""


class Rotation:
    """Turns queries to a position and back."""

    def __init__(self, model: Any) -> None:
        """Find the model's rotation and try it.

        Args:
            model: a language or vision-language model of transformers. Where none of its compressed layers rotates
                (Llama 4, whose chunks do), there is nothing to turn.

        Raises:
            PrefixKVError: the model rotates in a way that is not known here, or not in every layer.
        """
        self._means: dict[tuple[tuple[int, ...], int, torch.device], torch.Tensor] = {}
        decoder = decoder_of(model)
        self._angles = getattr(decoder, "rotary_emb", None)
        self._apply = rotation_of(decoder) or _rotate_halves
        config = model.config.get_text_config(decoder=True)
        geometry = KVGeometry.of(model.config, "float32")
        rotates = setting(config, "no_rope_layers") or [1] * geometry.decoder_layers
        turning = {bool(rotates[place]) for place in geometry.compressed_layers}
        if self._angles is None or len(turning) > 1:
            raise PrefixKVError(f"{type(model).__name__} does not rotate its queries in every layer")
        self._is_still, self._lengthens = turning == {False}, False
        size, self._rotated = geometry.head_dim, None
        if self._is_still:
            return
        if geometry.is_latent:
            layer = layer_config(config, geometry.compressed_layers[0])
            self._rotated = setting(layer, "qk_rope_head_dim")
            size = setting(layer, "qk_nope_head_dim") + self._rotated
        trial = torch.linspace(-1, 1, 2 * size, device=model.device).view(1, 2, size)
        positions = torch.tensor([3, 700], device=model.device)
        try:
            turned = self.turn(self.turn(trial, positions), positions, back=True)
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            raise PrefixKVError(f"the rotation of {type(model).__name__} is not known: {error}") from None
        if not torch.allclose(turned, trial, atol=TOLERANCE):
            raise PrefixKVError(f"the rotation of {type(model).__name__} cannot be undone")
        self._lengthens = not torch.allclose(self.turn(trial, positions).norm(), trial.norm(), rtol=TOLERANCE)

    @torch.no_grad()
    def turn(self, queries: torch.Tensor, positions: torch.Tensor, back: bool = False) -> torch.Tensor:
        """Rotate.

        Args:
            queries: (query_heads, count, head_dim).
            positions: (count,), int64; on all axes, where a model has several.
            back: undo the rotation.

        Returns:
            The same shape and dtype; computed in float32.
        """
        assert self._angles is not None
        if self._is_still:
            return queries
        whole = queries.float()[None]
        # Latent attention rotates the last elements of a query and no others.
        still, exact = (None, whole) if self._rotated is None else whole.tensor_split([-self._rotated], dim=-1)
        places = positions[None].to(exact.device)
        if hasattr(self._angles, "mrope_section"):
            places = places.expand(AXES, -1, -1)
        kind = {"layer_type": "full_attention"} if _takes_layer_type(self._angles) else {}
        # Of a model on several devices the angles come from one, and the queries may be on another.
        angles = (part.to(exact.device) for part in self._angles(exact, places, **kind))
        cosine, sine = (part.reshape(-1, *part.shape[-2:])[:1] for part in angles)
        if back:
            # Some models lengthen the vectors as they rotate, by the same factor everywhere.
            stretch = cosine[..., :1].square() + sine[..., :1].square()
            sine = -sine
        # It turns keys too, of which one is enough.
        turned = self._apply(exact, exact[:, :1], cosine, sine)[0][0]
        turned = turned / stretch[0] if back else turned
        return (turned if still is None else torch.cat([still[0], turned], dim=-1)).to(queries.dtype)

    def advance(self, queries: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """Move queries that are in their places so many places on, on all axes where a model has several.

        Args:
            queries: (query_heads, count, head_dim), after RoPE.
            steps: (count,), int64.

        Returns:
            The same shape and dtype.
        """
        moved = self.turn(queries, steps)
        # Where the model lengthens vectors as it rotates them, that was done once already.
        return self.turn(moved, torch.zeros_like(steps), back=True) if self._lengthens else moved

    def mean_step(self, steps: Sequence[int], head_dim: int, device: torch.device) -> torch.Tensor:
        """The mean of the rotations that move a query by each of these numbers of places, found once.

        Args:
            steps: at least one.
            head_dim: of the queries.
            device: where they are.

        Returns:
            (head_dim, head_dim), float32: a query, as a row, times it is the mean of the moved queries.
        """
        key = tuple(steps), head_dim, device
        if key not in self._means:
            # It outlives the call, so it must be an ordinary tensor even where the call is in inference mode.
            with torch.inference_mode(False):
                axes = torch.eye(head_dim, device=device)[:, None]
                parts = torch.tensor(key[0], device=device).split(TOGETHER)
                moved = [self.advance(axes.expand(-1, len(part), -1), part).sum(dim=1) for part in parts]
                self._means[key] = torch.stack(moved).sum(dim=0) / len(steps)
        return self._means[key]


class PositionWatch:
    """The position of the token that a model has read last.

    Attributes:
        latest: None until the first forward pass.
    """

    latest: int | None = None

    def _see(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        positions = kwargs["position_ids"] if "position_ids" in kwargs else args[1]
        self.latest = int(positions[..., -1].max())


@contextlib.contextmanager
def watched(model: Any) -> Iterator[PositionWatch]:
    """Watch the positions that the model's rotation is given.

    Args:
        model: a language or vision-language model; without such a module nothing is seen.
    """
    watch = PositionWatch()
    angles = getattr(decoder_of(model), "rotary_emb", None)
    handle = None if angles is None else angles.register_forward_pre_hook(watch._see, with_kwargs=True)
    try:
        yield watch
    finally:
        if handle is not None:
            handle.remove()


def _takes_layer_type(angles: Any) -> bool:
    return "layer_type" in inspect.signature(angles.forward).parameters


def _rotate_halves(
    queries: torch.Tensor, keys: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The convention of Llama: element `i` is paired with `i + head_dim / 2`."""

    def rotated(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * cosine[:, None] + torch.cat([-second, first], dim=-1) * sine[:, None]

    return rotated(queries), rotated(keys)
