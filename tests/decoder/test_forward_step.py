"""Which models' own forward pass is captured as a step."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from prefixkv.decoder.forward_step import ForwardStep
from prefixkv.models.decoder_weights import UnknownDecoderError
from tests import tiny


@pytest.mark.parametrize(("threshold", "is_captured"), [(6.0, False), (0.0, True)])
def test_layers_of_8_bits_that_look_for_outliers_are_named(threshold: float, is_captured: bool) -> None:
    """As bitsandbytes' layers say it, which this test has no GPU for."""
    model = tiny.llama()
    model.model.layers[1].mlp.up_proj.state = SimpleNamespace(threshold=threshold)
    if is_captured:
        assert ForwardStep(model).stages
        return
    with pytest.raises(UnknownDecoderError, match="in 8 bits look for outliers"):
        ForwardStep(model)
