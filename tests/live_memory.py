"""How many bytes of tensors are alive at most: counted at every operation, so the same on every machine."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class LiveMemory(TorchDispatchMode):
    """Counts the storages that operations inside the `with` create, until they are freed.

    Attributes:
        live_bytes: now.
        peak_bytes: most so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live_bytes = self.peak_bytes = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        inputs = {id(tensor.untyped_storage()) for tensor in args if isinstance(tensor, torch.Tensor)}
        for tensor in results if isinstance(results, (tuple, list)) else (results,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self._known and id(storage) not in inputs:
                    self._known.add(key)
                    self.live_bytes += storage.nbytes()
                    self.peak_bytes = max(self.peak_bytes, self.live_bytes)
                    weakref.finalize(storage, self._freed, key, storage.nbytes())
        return results

    def _freed(self, key: int, count: int) -> None:
        self._known.discard(key)
        self.live_bytes -= count
