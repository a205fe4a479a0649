"""Each kind of layer against a slow reference that keeps every entry and masks those that were evicted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING, AttentionInterface, AttentionMaskInterface, AutoConfig, DynamicCache
from transformers.masking_utils import sdpa_mask
from transformers.models.kosmos2_5.modeling_kosmos2_5 import Kosmos2_5TextSinusoidalPositionalEmbedding

import prefixkv
from prefixkv.cache.row import CacheRow
from prefixkv.errors import PrefixKVError
from prefixkv.models.geometry import KVGeometry
from prefixkv.transformers_compat import asks_for_states, cache_argument, first_position
from tests.families.shrunk import small_config, small_model
from tests.families.trial import tokens, try_type
from tests.reference import prefixkv_positions

KINDS: dict[str, Callable[[KVGeometry], Any]] = {
    "qwen3_5_text": lambda shape: shape.state_layers,
    "lfm2": lambda shape: shape.state_layers,
    "nemotron_h": lambda shape: shape.state_layers and shape.bare_layers,
    "falcon_h1": lambda shape: shape.hybrid_layers,
    "llama4_text": lambda shape: shape.has_chunks and shape.window_layers,
    "gemma3n_text": lambda shape: shape.bare_layers and shape.window_layers,
    "gemma4_text": lambda shape: shape.window_shape,
    "deepseek_v3": lambda shape: shape.is_latent,
    "gpt_oss": lambda shape: shape.window_layers,
}
"""A type for each kind of layer, and what its shape has: gated delta rule, short convolutions, Mamba 2 beside layers
without a cache, Mamba 2 and attention in one layer, chunks, layers that read another's entries, windows with heads of
another size, latent attention, and sinks that are parameters."""
PROMPT, STEPS, SHARE = 60, 6, 0.3


class Reference:
    """Attention with whole matrices over all entries, of which some are hidden.

    Attributes:
        matrices: the weights of the last pass, (query_heads, query_len, key_len), by the layer's place.
        kept: positions that a layer sees beside new tokens, by its place; where it is missing, all.
    """

    def __init__(self, config: Any, places: tuple[int, ...]) -> None:
        self._types, self._places = getattr(config, "layer_types", None), places
        self.matrices: dict[int, torch.Tensor] = {}
        self.kept: dict[int, torch.Tensor] = {}

    def _owner(self, place: int) -> int:
        """The layer whose entries a layer reads: its own, or the last one's of its type."""
        if place in self._places or self._types is None:
            return place
        return max((owner for owner in self._places if self._types[owner] == self._types[place]), default=place)

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        group = query.shape[1] // key.shape[1]
        keys, values = (part.repeat_interleave(group, dim=1) for part in (key, value))
        logits = query @ keys.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        if attention_mask is not None:
            logits = logits.masked_fill(~attention_mask, -torch.inf)
        place = self._owner(int(module.layer_idx))
        if place in self.kept:
            hidden = torch.ones(key.shape[2], dtype=torch.bool)
            hidden[self.kept[place]] = False
            logits = logits.masked_fill(hidden, -torch.inf)
        if kwargs.get("s_aux") is not None:
            beside = kwargs["s_aux"].reshape(1, -1, 1, 1).expand(*logits.shape[:3], 1)
            weights = torch.cat([logits, beside], dim=-1).softmax(dim=-1)[..., :-1]
        else:
            weights = logits.softmax(dim=-1)
        if place == int(module.layer_idx):
            self.matrices[place] = logits.softmax(dim=-1)[0]
        return (weights @ values).transpose(1, 2).contiguous(), None


def _mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    return sdpa_mask(*args, **(kwargs | {"allow_is_causal_skip": False}))


@contextmanager
def slow(model: Any, reference: Reference) -> Iterator[None]:
    AttentionInterface.register("slow", reference.attend)
    AttentionMaskInterface.register("slow", _mask)
    before = model.config._attn_implementation
    model.set_attn_implementation("slow")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@pytest.mark.parametrize("model_type", KINDS)
def test_entries_and_positions_are_those_of_a_reference_that_keeps_all_and_masks(model_type: str) -> None:
    model = small_model(small_config(model_type), reads_pictures=False)
    geometry = KVGeometry.of(model.config, "float32")
    assert KINDS[model_type](geometry)
    if geometry.state_layers and not asks_for_states():
        with pytest.raises(PrefixKVError, match="newer transformers"):
            CacheRow(geometry)
        return
    places = geometry.compressed_layers
    prompt, answer = tokens(PROMPT, 3), tokens(STEPS, 4)
    kept, logits = [], []
    with torch.no_grad(), prefixkv.compress(model, SHARE, "prefixkv") as cache:
        for text in (prompt, *answer.split(1, dim=1)):
            logits.append(model(input_ids=text, **cache_argument(cache), use_cache=True).logits[:, -1])
            kept.append([cache.kept_positions(layer)[0, 0].sort().values for layer in range(geometry.layers)])
    reference = Reference(model.config, places)
    stock = DynamicCache(config=model.config)
    with torch.no_grad(), slow(model, reference):
        expected = [model(input_ids=prompt, **cache_argument(stock), use_cache=True).logits[:, -1]]
        chosen = prefixkv_positions([reference.matrices[place] for place in places], SHARE)
        assert [positions.tolist() for positions in kept[0]] == chosen
        for text, positions in zip(answer.split(1, dim=1), kept[1:], strict=True):
            reference.kept = dict(zip(places, positions, strict=True))
            expected.append(model(input_ids=text, **cache_argument(stock), use_cache=True).logits[:, -1])
    torch.testing.assert_close(torch.cat(logits), torch.cat(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.exhaustive
@pytest.mark.parametrize("model_type", KINDS)
def test_kind_of_layer_passes_every_check(model_type: str) -> None:
    found = try_type(model_type, reads_pictures=False)
    if not asks_for_states() and "keep a state" in str(found.get("reason")):
        pytest.skip(f"transformers {transformers.__version__} keeps states in a cache of its own")
    assert (found["outcome"], found.get("reason")) == ("runs", None)


def test_windows_have_the_heads_that_their_model_gives_them() -> None:
    """MiMo's model doubles the key/value heads of its windows, of which its configuration says nothing."""
    if "mimo_v2_flash" not in CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} knows no mimo_v2_flash")
    model = small_model(small_config("mimo_v2_flash"), False)
    shape = KVGeometry.of(model.config, "float32")
    layers = model.model.layers
    for entry, place in ((shape.shape, shape.compressed_layers[0]), (shape.window_entry, shape.window_layers[0])):
        assert layers[place].self_attn.k_proj.out_features == entry.kv_heads * entry.key_dim


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", ["jamba", "zaya"])
def test_states_of_other_kinds_take_what_the_configuration_says(model_type: str, dtype: str) -> None:
    """Jamba's recurrence is in float32, whatever the model runs in; what Zaya keeps of the last tokens is not."""
    if model_type not in CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} knows no {model_type}")
    model = small_model(small_config(model_type), False).to(getattr(torch, dtype))
    geometry = KVGeometry.of(model.config, dtype)
    if not asks_for_states():
        pytest.skip(f"transformers {transformers.__version__} keeps states in a cache of its own")
    with torch.no_grad(), prefixkv.compress(model, "100%", "prefixkv") as cache:
        model(input_ids=tokens(PROMPT, 3), **cache_argument(cache), use_cache=True)
    assert cache.state_bytes == geometry.state_bytes


@pytest.mark.parametrize("model_type", ["kosmos-2", "kosmos-2.5"])
def test_first_position_is_where_the_model_counts_from(model_type: str) -> None:
    """Kosmos counts a prompt from its padding's id on, and is told the positions of what follows."""
    config = AutoConfig.for_model(model_type)
    padding = config.get_text_config().pad_token_id
    counted = Kosmos2_5TextSinusoidalPositionalEmbedding.create_position_ids_from_input_ids(tokens(3, 1), padding)
    assert first_position(config) == int(counted[0, 0])
