"""Load a model and its processor by alias, hub id or folder. Nothing heavy is imported before a model is loaded."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from prefixkv.errors import PrefixKVError
from prefixkv.models.choice import real_model
from prefixkv.models.config_file import check_config_file
from prefixkv.models.download import Progress, download, missing, wanted_files
from prefixkv.models.files import read_identity, weight_bytes, weights_are_here
from prefixkv.models.frontend import read_processor
from prefixkv.models.generation_settings import settings_notice
from prefixkv.models.geometry import KVGeometry
from prefixkv.models.identity import ModelIdentity
from prefixkv.models.names import (
    ALIASES,
    check_device_name,
    check_dtype_name,
    check_model_name,
    folder_notice,
    full_name,
    profile_name,
    source_of,
)
from prefixkv.models.placement import Placement
from prefixkv.models.pretrained import chat_template, read_model, read_part, reading
from prefixkv.models.settings_check import check_settings, check_settings_file
from prefixkv.platforms import platform_notice
from prefixkv.transformers_compat import reads_images

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

__all__ = [
    "ALIASES",
    "LoadedModel",
    "Placement",
    "check_device_name",
    "check_dtype_name",
    "check_model_name",
    "choose_model",
    "gpu_bytes",
    "load_model",
    "profile_name",
    "read_identity",
    "weight_bytes",
    "weights_are_here",
]

DEMO_NOTICE = (
    "using the bundled demo model, which knows nothing but drawn shapes and documents; "
    "give --model llava or any other model for real pictures"
)

Notify = Callable[[str], None]


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to answer.

    Attributes:
        id: `demo`, the hub id or the folder.
        model: on its device, in evaluation mode.
        processor: turns text and images into model inputs; a bare tokenizer for a language model without images.
        geometry: shape of the KV cache.
        device: where the model takes its inputs.
        takes_images: whether the model reads images.
        load_seconds: time that loading took, imports included.
    """

    id: str
    model: PreTrainedModel
    processor: Any
    geometry: KVGeometry
    device: torch.device
    takes_images: bool
    load_seconds: float

    @cached_property
    def identity(self) -> ModelIdentity:
        """Which model this is, for profiles and configurations."""
        return ModelIdentity.of(self.id, self.model.config, self.geometry.dtype)

    def on_device(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Inputs where the model is, pixels in its dtype."""
        dtype = self.model.dtype
        return {
            name: value.to(self.device, dtype if value.is_floating_point() else None) for name, value in inputs.items()
        }

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return getattr(self.processor, "tokenizer", self.processor)


def load_model(
    name: str = "auto",
    device: str = "auto",
    dtype: str = "auto",
    notify: Notify = lambda text: None,
    placement: Placement | None = None,
    progress: Progress = lambda done, total: None,
) -> LoadedModel:
    """Load a model with its processor.

    Args:
        name: `auto` (a real model that fits this machine where one was downloaded, else the demo model; nothing is
            downloaded), `demo`, an alias, a Hugging Face id or a folder.
        device: `auto` (the GPU where there is one), `cpu`, `cuda`, `cuda:1`, `mps`.
        dtype: `auto` (bfloat16 on a GPU, float32 on the CPU), `float32`, `bfloat16`, `float16`.
        notify: called with one line for each thing that the user should know.
        placement: weights on several devices, in fewer bits, or with code of their own; where None, all on `device`, in
            `dtype`, and no code of the model's runs.
        progress: called with the bytes that are here and the bytes in all while the model is downloaded.

    Raises:
        OptionError: device or dtype has a value that is not allowed.
        PrefixKVError: the model, the device or a library is not there, or the model cannot be compressed.
        DeviceMemoryError: the weights do not fit.
    """
    started = time.perf_counter()
    placement = placement or Placement()
    chosen = choose_model(name, device, dtype, notify, placement, progress)
    import torch
    import transformers

    trusted, source, where = placement.trust_remote_code, source_of(chosen.id), chosen.device
    with reading(f"model {chosen.id!r}"):
        check_config_file(chosen.id)
        check_settings_file(source)
        config = read_part(transformers.AutoConfig, source, trusted)
        geometry = KVGeometry.of(config, chosen.dtype)
        takes_images = reads_images(config)
        kind = transformers.AutoModelForImageTextToText if takes_images else transformers.AutoModelForCausalLM
        processor = read_processor(chosen.id, config, trusted)
        arguments = placement.arguments(where)
        model = read_model(kind, source, trusted, config=config, dtype=getattr(torch, chosen.dtype), **arguments)
    check_settings(chosen.id, model)
    if said := settings_notice(chosen.id, model.generation_config):
        notify(said)
    if chat_template(processor) is None:
        notify(
            f"model {chosen.id!r} has no chat template: questions are put to it as they are, as to a base model; if it "
            "should have one, its file chat_template.jinja is missing"
        )
    if placement.device_map is not None:
        where = model.device
    return LoadedModel(chosen.id, model.eval(), processor, geometry, where, takes_images, time.perf_counter() - started)


@dataclass(frozen=True)
class ChosenModel:
    """A model whose files are here.

    Attributes:
        id: `demo`, the hub id or the folder.
        device: where it is to be.
        dtype: name of the type of its weights.
    """

    id: str
    device: torch.device
    dtype: str


def choose_model(
    name: str, device: str, dtype: str, notify: Notify, placement: Placement, progress: Progress
) -> ChosenModel:
    """Find out which model is meant, and bring its files here; nothing of it is loaded.

    Arguments and errors are those of `load_model`.
    """
    check_model_name(name)
    check_device_name(device)
    check_dtype_name(dtype)
    placement.check(device)
    trusted = placement.trust_remote_code
    # Before torch, whose import takes seconds: a model that cannot be had is known at once.
    offered = missing(source_of(full_name(name)), with_code=trusted) if name != "auto" else None
    import torch

    where = find_device(device)
    if untested := platform_notice(sys.platform, where.type, torch.version.hip):
        notify(untested)
    chosen = _choose(name, where, notify)
    if dtype == "auto":
        dtype = "float32" if where.type == "cpu" else "bfloat16"
    if offered is not None:
        size = sum(wanted_files(offered, with_code=trusted).values())
        notify(f"downloading {offered.id} ({size / 1e9:.1f} GB), once")
        download(offered, with_code=trusted, progress=progress)
    if trusted:
        notify(f"Python code that comes with {chosen!r} may run on this machine")
    return ChosenModel(chosen, where, dtype)


def gpu_bytes() -> int:
    """Memory of this machine's first CUDA device.

    Raises:
        PrefixKVError: there is none.
    """
    import torch

    if not torch.cuda.is_available():
        raise PrefixKVError("there is no GPU on this machine: say what to fit with --device-memory 80GB")
    return torch.cuda.get_device_properties(0).total_memory


def find_device(name: str) -> torch.device:
    """The torch device of that name.

    Raises:
        PrefixKVError: this machine has none.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise PrefixKVError(f"device {name!r} is not there: torch sees {found} CUDA devices; try cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise PrefixKVError("device 'mps' is not there: try cpu")
    return device


def _choose(name: str, device: torch.device, notify: Notify) -> str:
    """The model behind a name: `demo`, a hub id or a folder."""
    if name != "auto":
        if said := folder_notice(name):
            notify(said)
        return full_name(name)
    real, is_here = real_model(device)
    if is_here:
        return real.id
    notify(DEMO_NOTICE)
    return "demo"
