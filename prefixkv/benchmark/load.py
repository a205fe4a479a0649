"""What a benchmark runs: a model, its prompts, and how its cache is compressed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from prefixkv.methods.table import DEFAULT_METHOD
from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.codec import DEFAULT_CODEC
from prefixkv.policy.look_ahead import LookAhead
from prefixkv.transformers_compat import decoder_of

STOCK, STATIC = "transformers", "transformers-static"
"""Stand for a budget: stock generate with its usual cache, and with a compiled static one."""


@dataclass(frozen=True)
class Load:
    """What is measured.

    Attributes:
        model: on its device, stock sdpa attention.
        geometry: shape of its cache.
        context_tokens: tokens of each row's prompt.
        batch: rows.
        new_tokens: tokens to generate for each row, 3 at least.
        bandwidth: bytes in a second that the device copies.
        repeats: measured prefills, of which one more warms up; 0 times the one that decoding begins from.
        method: how entries are chosen.
        keep_fractions: shares of the layers that are known beforehand; None searches them.
        rows_at_once: rows that are read in one forward pass; all where None.
        look_ahead: queries for a method that uses a profile's; None without.
        path: `decode`, our own loop, each step timed by itself; `generate`, as a user calls it; `chat`, the one row of
            a conversation; or `batch`, the requests of an `Engine`.
        padding_tokens: most tokens by which a row is shorter than others, where `generate` or `batch` is measured.
        codec: in which precision entries are stored.
    """

    model: PreTrainedModel
    geometry: KVGeometry
    context_tokens: int
    batch: int
    new_tokens: int
    bandwidth: float
    repeats: int = 3
    method: str = DEFAULT_METHOD
    keep_fractions: tuple[float, ...] | None = None
    rows_at_once: int | None = None
    look_ahead: LookAhead | None = None
    path: str = "decode"
    padding_tokens: int = 0
    codec: str = DEFAULT_CODEC

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def prompt(self) -> torch.Tensor:
        """(batch, context_tokens), int64: random text, the same every time."""
        generator = torch.Generator().manual_seed(1)
        vocabulary = self.model.config.get_text_config().vocab_size
        ids = torch.randint(5, vocabulary * 9 // 10, (self.batch, self.context_tokens), generator=generator)
        return ids.to(self.device)

    @property
    def paddings(self) -> list[int]:
        """Tokens by which each row is shorter than the longest, from 0 to `padding_tokens`."""
        return [int(each) for each in torch.linspace(0, self.padding_tokens, self.batch).tolist()]

    def inputs(self) -> dict[str, torch.Tensor]:
        """The prompts as the model's inputs, `input_ids` (batch, context_tokens) among them.

        A model with a vision tower of a fixed size gets a random picture behind the first token, another in each row,
        if the prompt is longer than it; the picture's tokens are of the prompt's number.
        """
        ids, config = self.prompt(), self.model.config
        tower = getattr(config, "vision_config", None)
        if tower is None or not hasattr(config, "image_token_index"):
            return {"input_ids": ids}
        patches = (tower.image_size // tower.patch_size) ** 2
        if self.context_tokens <= patches + self.padding_tokens + 1:
            return {"input_ids": ids}
        ids[:, self.padding_tokens + 1 : self.padding_tokens + 1 + patches] = config.image_token_index
        shape = self.batch, tower.num_channels, tower.image_size, tower.image_size
        pixels = torch.randn(shape, generator=torch.Generator().manual_seed(3))
        return {"input_ids": ids, "pixel_values": pixels.to(self.device, self.model.dtype)}

    def roofline_ms(self, kv_bytes: int) -> float:
        """A step that reads weights and entries once and does nothing else."""
        decoder, head = decoder_of(self.model), self.model.get_output_embeddings()
        embedding = self.model.get_input_embeddings().weight
        weights = [*decoder.parameters(), *head.parameters()]
        # The embedding is looked up, unless it is the head as well.
        read = {weight.data_ptr(): weight.nbytes for weight in weights if weight is not embedding}
        read |= {head.weight.data_ptr(): head.weight.nbytes}
        return (sum(read.values()) + kv_bytes) / self.bandwidth * 1000
