"""How every family's decode step is captured, or why not: `python -m tests.families.capture` prints a line for each.

Needs no GPU: the step is taken on tensors without numbers, on which nothing can be waited for.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch

from prefixkv.cache import attention
from prefixkv.decoder import captured, forward_step
from prefixkv.decoder.refusal import NotCapturableError
from prefixkv.decoder.step import OwnStep
from prefixkv.errors import PrefixKVError
from prefixkv.kernels.entry_table import EntryTable
from tests.families.all_families import FAMILIES

OWN, FORWARD = "the project's kernels", "transformers' forward pass"


def captured_by(model: Any) -> str:
    """What a captured step of a model is made of, or why there is none.

    Args:
        model: on any device; afterwards its weights have no numbers.
    """
    with attention.installed(model):
        try:
            step = captured._step_of(model)
        except NotCapturableError as error:
            return str(error)
        if isinstance(step, OwnStep):
            return OWN
        model.to("meta")
        numbers = torch.zeros(2, dtype=torch.int64, device="meta")
        # The kernels themselves wait for nothing.
        kernels: dict[str, Any] = {"next_slots": lambda table: None, "decode_attention": lambda query, *_: query}
        with mock.patch.multiple(forward_step, **kernels):
            try:
                (stage,) = step.stages
                table = EntryTable(len(stage.layers), 2, torch.device("meta"))
                step(stage, table, numbers, numbers, (16,))
            except (RuntimeError, NotImplementedError, PrefixKVError) as error:
                return f"no: {(str(error).splitlines() or [type(error).__name__])[0]}"
    return FORWARD


def main() -> None:
    """Print the list."""
    for name, build in FAMILIES.items():
        try:
            found = captured_by(build().model)
        except ImportError as error:
            found = f"needs a package of its own: {' '.join(str(error).split())[:60]}"
        print(f"{name}: {found}", flush=True)


if __name__ == "__main__":
    main()
