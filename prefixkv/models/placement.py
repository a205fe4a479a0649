"""How a model's weights are laid out: on one device or several, in how many bits."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

from prefixkv.errors import OptionError, PrefixKVError

MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
"""Ways in which accelerate spreads layers over devices."""


@dataclass(frozen=True)
class Placement:
    """Where the weights go, and whether they come with code that may run.

    Attributes:
        device_map: one of `MAPS`, for models larger than one device; None for a single device.
        bits: 8 or 4 for quantised weights; None for the dtype's own. The cache keeps its dtype.
        trust_remote_code: whether Python that comes with the model's files may run.
    """

    device_map: str | None = None
    bits: int | None = None
    trust_remote_code: bool = False

    def check(self, device: str = "auto") -> None:
        """Refuse what cannot be.

        Args:
            device: what the user asks for beside it.

        Raises:
            OptionError: an unknown map, or one together with a device.
            PrefixKVError: the library that quantises is not installed.
        """
        if self.device_map is not None and self.device_map not in MAPS:
            raise OptionError(f"device map {self.device_map!r} is not known: choose {', '.join(MAPS)}")
        if self.device_map is not None and device != "auto":
            raise OptionError(f"give either --device {device} or --device-map {self.device_map}")
        if self.bits is not None and importlib.util.find_spec("bitsandbytes") is None:
            raise PrefixKVError(
                f"weights in {self.bits} bits need bitsandbytes, which is not installed: pip install bitsandbytes"
            )

    def arguments(self, device: Any) -> dict[str, Any]:
        """Arguments of transformers' `from_pretrained`.

        Args:
            device: the torch device where there is no map.
        """
        arguments: dict[str, Any] = {"device_map": self.device_map or {"": device}}
        if self.bits is not None:
            from transformers import BitsAndBytesConfig

            arguments["quantization_config"] = BitsAndBytesConfig(
                load_in_8bit=self.bits == 8, load_in_4bit=self.bits == 4
            )
        return arguments
