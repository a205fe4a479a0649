"""Several prompts as one batch, padded on the left; pictures stay with their rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import pad

from prefixkv.inputs.prompts import Prompt


def padded_batch(prompts: Sequence[Prompt], pad_token: int) -> dict[str, torch.Tensor]:
    """The inputs of all prompts together.

    What has a value for every token is padded on the left. Picture tensors are put one behind the other; where pictures
    differ in tiles or pixels, the smaller ones are filled up with zeros, as the families' own processors do it.

    Args:
        prompts: one for each row; their pictures may differ in number and size.
        pad_token: id that stands in the padding.

    Returns:
        `input_ids` and `attention_mask`, (batch, longest), and whatever else the model takes.
    """
    longest = max(prompt.tokens for prompt in prompts)
    batch: dict[str, torch.Tensor] = {
        "attention_mask": torch.cat([_left(torch.ones_like(p.inputs["input_ids"]), longest, 0) for p in prompts])
    }
    for name in {name: None for prompt in prompts for name in prompt.inputs}:
        parts = [(prompt, prompt.inputs[name]) for prompt in prompts if name in prompt.inputs]
        if all(part.shape == prompt.inputs["input_ids"].shape for prompt, part in parts):
            filler = pad_token if name == "input_ids" else 0
            rows = [prompt.inputs.get(name, torch.zeros_like(prompt.inputs["input_ids"])) for prompt in prompts]
            batch[name] = torch.cat([_left(row, longest, filler) for row in rows])
        elif "target_sizes" in prompts[0].inputs and name == "pixel_values":
            # All pictures stand in one row, patch by patch.
            batch[name] = torch.cat([part for _, part in parts], dim=-1)
        else:
            batch[name] = torch.cat(_filled_up([part for _, part in parts]))
    return batch


def _left(row: torch.Tensor, length: int, filler: int) -> torch.Tensor:
    return pad(row, (length - row.shape[1], 0), value=filler)


def _filled_up(parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """All sizes but the first made equal, with zeros at the end."""
    sizes = [max(part.shape[axis] for part in parts) for axis in range(1, parts[0].ndim)]
    return [
        pad(part, [room for axis in range(part.ndim - 1, 0, -1) for room in (0, sizes[axis - 1] - part.shape[axis])])
        for part in parts
    ]
