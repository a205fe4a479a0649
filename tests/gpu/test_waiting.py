"""Where the host does not wait for a GPU."""

from __future__ import annotations

import pytest
import torch

from prefixkv.cache import attention
from prefixkv.cache.prefix_cache import PrefixKVCache
from prefixkv.engine.stepper import Stepper
from prefixkv.generation.forward import read_prompt
from prefixkv.generation.sampling import Sampling
from prefixkv.models.geometry import KVGeometry
from tests import tiny
from tests.gpu.device import DEVICE

pytestmark = pytest.mark.gpu


def test_a_step_is_queued_without_waiting_when_a_row_has_left() -> None:
    model = tiny.llama(layers=2).to(DEVICE)
    geometry, stepper = KVGeometry.of(model.config, "float32"), Stepper(model, 8)
    with attention.installed(model):
        for seed in range(5):
            cache = PrefixKVCache(geometry, "50%", "h2o")
            read_prompt(model, {"input_ids": tiny.text(40, seed=seed).to(DEVICE)}, cache)
            cache.row.reserve(20)
            stepper.join(cache.row, 7, Sampling(20))
        stepper.advance()
        for place in (1, 3):
            stepper.leave(place)
            torch.cuda.set_sync_debug_mode("error")
            try:
                stepper.advance()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        stepper.tokens()
        assert stepper.tokens().keys() == {0, 2, 3, 4}
        assert stepper.tokens().keys() == {0, 2, 4}
