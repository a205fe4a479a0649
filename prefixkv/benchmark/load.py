"""What a benchmark runs: a model, its prompts, and how its cache is compressed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from prefixkv.models.geometry import KVGeometry
from prefixkv.policy.look_ahead import LookAhead
from prefixkv.policy.methods import DEFAULT_METHOD

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
        path: `decode`, the project's own loop, each step timed by itself; or `generate`, as a user calls it.
        padding_tokens: most columns of a row that are padding, where `generate` is measured.
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

    def roofline_ms(self, kv_bytes: int) -> float:
        """A step that reads weights and entries once and does nothing else."""
        decoder, head = self.model.get_decoder(), self.model.get_output_embeddings()
        embedding = self.model.get_input_embeddings().weight
        weights = [*decoder.parameters(), *head.parameters()]
        # The embedding is looked up, unless it is the head as well.
        read = {weight.data_ptr(): weight.nbytes for weight in weights if weight is not embedding}
        read |= {head.weight.data_ptr(): head.weight.nbytes}
        return (sum(read.values()) + kv_bytes) / self.bandwidth * 1000
