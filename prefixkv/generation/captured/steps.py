"""Decoding by replays: the host queues a step, prepares the next one while the GPU works, and fetches the tokens."""

from __future__ import annotations

from typing import Any

import torch

from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.errors import BudgetTooSmallError
from prefixkv.generation.captured.entries import next_entries, obstacle, occupy, write
from prefixkv.generation.captured.graph import CapturedStep
from prefixkv.generation.captured.refusal import NotCapturableError
from prefixkv.generation.choice import TokenChoice
from prefixkv.kernels.dispatch import triton_obstacle
from prefixkv.kernels.entry_table import WHOLE_BITS, LayerEntries


class CapturedSteps:
    """The steps of one answer on one cache."""

    def __init__(self, model: Any, cache: PrefixKVCache, choose: TokenChoice, tokens: torch.Tensor) -> None:
        """Begin behind the prompt.

        Args:
            model: on one CUDA device.
            cache: has read the prompt; nothing else may write to it until the last step.
            choose: how tokens are chosen.
            tokens: (batch,), int64: chosen from the prompt's logits.

        Raises:
            NotCapturableError: model or cache cannot be decoded in this way.
        """
        if not tokens.is_cuda:
            raise NotCapturableError(f"a step on {tokens.device} cannot be captured: that needs a CUDA device")
        if missing := triton_obstacle():
            raise NotCapturableError(f"scoring and decoding take plain torch, which is slower: {missing}")
        if reason := obstacle(cache):
            raise NotCapturableError.because(reason)
        self._cache, self._device = cache, tokens.device
        with torch.cuda.device(self._device):
            self._begin(model, cache, choose, tokens)

    def _begin(self, model: Any, cache: PrefixKVCache, choose: TokenChoice, tokens: torch.Tensor) -> None:
        self._step = CapturedStep.of(model, tokens.shape[0], cache.layers[0].bits or WHOLE_BITS)
        self._step.tokens.copy_(tokens)
        if cache.next_positions is None:
            self._step.offsets.zero_()
        else:
            self._step.offsets.copy_(cache.next_positions - cache.seen_tokens)
        self._choice = _captured_choice(self._step, choose)
        self._fetched = torch.empty(tokens.shape[0], dtype=torch.int64, pin_memory=True)
        self._arrived = torch.cuda.Event()
        self._entries: list[list[LayerEntries]] | None = None

    def tokens(self) -> list[int]:
        """The newest token of each row, behind a first `advance`; waits for it."""
        self._arrived.synchronize()
        found: list[int] = self._fetched.tolist()
        return found

    @torch.no_grad()
    def advance(self) -> None:
        """Queue the step that reads the newest tokens; the host does not wait.

        Raises:
            BudgetTooSmallError: the method keeps everything and the budget is used up.
        """
        with torch.cuda.device(self._device):
            if self._entries is None:
                self._entries = next_entries(self._cache)
                write(self._step.table, self._entries)
            self._step.replay()
            self._choice.replay()
            self._fetched.copy_(self._step.tokens, non_blocking=True)
            self._arrived.record()
            occupy(self._cache, self._entries)
            self._prepare()

    def _prepare(self) -> None:
        """Upload the next step's table behind the running step; it changes nothing if that step is never taken."""
        # Let go first: where all layers grow in one step, their old buffers must not be held until the last is done.
        self._entries = None
        try:
            self._entries = next_entries(self._cache)
        except BudgetTooSmallError:
            return
        write(self._step.table, self._entries)


@torch.no_grad()
def _captured_choice(step: CapturedStep, choose: TokenChoice) -> torch.cuda.CUDAGraph:
    """The choice as a graph of its own, which writes the tokens that the step reads."""
    graph = torch.cuda.CUDAGraph()
    if choose.random is not None:
        state = choose.random.get_state()
        graph.register_generator_state(choose.random)
    # Once outside, so that what is set up at first use is not captured.
    choose(torch.zeros_like(step.logits))
    if choose.random is not None:
        # That was no draw.
        choose.random.set_state(state)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        step.tokens.copy_(choose(step.logits))
    return graph
