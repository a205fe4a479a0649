"""The blocks of a vision tower while a prompt is read: the same picture sizes come again, so they are replayed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from prefixkv.cache import reading_graphs
from prefixkv.kernels.dispatch import reads_in_kernels
from prefixkv.models.blocks import block_lists
from prefixkv.transformers_compat import decoder_of, is_capturing_hook

KNOWN = ("torch.nn.", "transformers.")
"""Where the modules of a block must come from: others may compute something else the next time."""


class CapturedBlock:
    """Stands for a block's forward pass; what is not a plain pass over hidden states goes to the block's own."""

    computes_the_same = True
    """As for `prefixkv.cache.fused_layers.FusedLayer`."""

    def __init__(self, module: torch.nn.Module) -> None:
        """Wrap a block.

        Args:
            module: maps hidden states (pictures, patches, hidden) to hidden states of that shape.
        """
        self._module, self._plain = module, module.forward
        self._weights = _weights(module)

    @torch.compiler.disable
    def __call__(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """The block's output."""
        graphs, given = reading_graphs.current(), (*args, *kwargs.values())
        if (
            graphs is None
            or self._module.training
            or graphs.device != hidden_states.device
            or not all(each is None or isinstance(each, bool | int | float | str) for each in given)
        ):
            return self._plain(hidden_states, *args, **kwargs)
        key = (self._module, hidden_states.shape, hidden_states.dtype, *map(str, given))
        if not graphs.knows(key):
            found = self._plain(hidden_states, *args, **kwargs)
            graphs.note(key, hidden_states, found)
            return found
        output = graphs.output(key)
        if output is None:
            return self._plain(hidden_states, *args, **kwargs)
        source = graphs.input(hidden_states)
        source.copy_(hidden_states)

        def work() -> None:
            output.copy_(self._plain(source, *args, **kwargs))

        graphs.run(key, tuple(weight.data_ptr() for weight in self._weights), work)
        return output


@contextlib.contextmanager
def captured_blocks(model: Any, anywhere: bool = False) -> Iterator[None]:
    """Have the blocks beside the decoder's replayed inside `reading_graphs.replayed_parts`.

    Args:
        model: a vision-language model of transformers.
        anywhere: also on a CPU.
    """
    with contextlib.ExitStack() as stack:
        is_fast = reads_in_kernels(model.device)
        layers = getattr(decoder_of(model), "layers", None)
        for blocks in block_lists(model) if anywhere or is_fast else ():
            for block in blocks if blocks is not layers else ():
                if _is_plain(block):
                    stack.callback(delattr, block, "forward")
                    block.forward = CapturedBlock(block)
        yield


def _is_plain(block: torch.nn.Module) -> bool:
    """Whether a block does what its modules say and nothing else, all on one device."""
    modules = list(block.modules())
    hooks = [hook for part in modules[1:] for hook in (part._forward_hooks, part._forward_pre_hooks)]
    has_hook = not all(is_capturing_hook(hook) for group in hooks for hook in group.values())
    is_changed = has_hook or any("forward" in vars(part) for part in modules)
    known = all(type(part).__module__.startswith(KNOWN) for part in modules)
    return known and not is_changed and len({weight.device for weight in _weights(block)}) == 1


def _weights(block: torch.nn.Module) -> list[torch.Tensor]:
    """A block's weights; torch's own way of listing them takes ten times as long."""
    return [weight for part in block.modules() for weight in part._parameters.values() if weight is not None]
