"""Load a model and its processor by alias, hub id or folder. Nothing heavy is imported before a model is loaded."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefixkv.errors import DeviceMemoryError, OptionError, PrefixKVError
from prefixkv.geometry import DTYPE_BYTES, KVGeometry
from prefixkv.identity import ModelIdentity
from prefixkv.shapes import SHAPES

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

ALIASES = {"llava": "llava-hf/llava-1.5-7b-hf"}
"""Short names of hub models; `demo` is the bundled model and `auto` chooses."""

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
DEMO_NOTICE = (
    "using the bundled demo model, which knows nothing but drawn scenes of coloured shapes; "
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
        device: where the model is.
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

    @property
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


def check_model_name(name: str) -> None:
    """Refuse a name that can be no model; looks at the local disk only.

    Raises:
        PrefixKVError: says what is missing.
    """
    path = Path(name).expanduser()
    if name in ("auto", "demo", *ALIASES):
        return
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise PrefixKVError(f"folder {name!r} holds no model: there is no config.json in it")
    elif path.exists():
        raise PrefixKVError(f"model {name!r} is a file: give the folder that holds config.json and the weights")
    elif name.startswith((".", "/", "~")) or name.count("/") > 1 or not _HUB_ID.fullmatch(name):
        raise PrefixKVError(
            f"model {name!r} is not there: give auto, demo, {', '.join(ALIASES)}, a Hugging Face id such as "
            f"{ALIASES['llava']}, or a folder"
        )


def check_device_name(name: str) -> None:
    """Raise an OptionError for what is no device; whether this machine has it is seen when a model is loaded."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise OptionError(f"device {name!r} is not known: choose auto, cpu, cuda, cuda:N or mps")


def check_dtype_name(name: str) -> None:
    """Raise an OptionError for what is no dtype that a cache can be stored in."""
    if name not in ("auto", *DTYPE_BYTES):
        raise OptionError(f"dtype {name!r} is not known: choose auto, {', '.join(DTYPE_BYTES)}")


def load_model(
    name: str = "auto", device: str = "auto", dtype: str = "auto", notify: Notify = lambda text: None
) -> LoadedModel:
    """Load a model with its processor.

    Args:
        name: `auto` (the real LLaVA where its weights are cached, or where there are a GPU and the hub; else the demo
            model), `demo`, `llava`, a Hugging Face id or a folder.
        device: `auto` (the GPU where there is one), `cpu`, `cuda`, `cuda:1`, `mps`.
        dtype: `auto` (bfloat16 on a GPU, float32 on the CPU), `float32`, `bfloat16`, `float16`.
        notify: called with one line for each thing that the user should know.

    Raises:
        OptionError: device or dtype has a value that is not allowed.
        PrefixKVError: the model or the device is not there.
        DeviceMemoryError: the weights do not fit.
    """
    check_model_name(name)
    check_device_name(device)
    check_dtype_name(dtype)
    started = time.perf_counter()
    import torch
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    where = _device(device)
    chosen = _choose(name, where, notify)
    source = _source(chosen)
    if dtype == "auto":
        dtype = "float32" if where.type == "cpu" else "bfloat16"
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(source)
        geometry = KVGeometry.of(config, dtype)
        takes_images = config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
        kind = transformers.AutoModelForImageTextToText if takes_images else transformers.AutoModelForCausalLM
        reader = transformers.AutoProcessor if takes_images else transformers.AutoTokenizer
        processor = reader.from_pretrained(source)
        model = kind.from_pretrained(source, config=config, dtype=getattr(torch, dtype), device_map={"": where})
    except torch.OutOfMemoryError as error:
        raise DeviceMemoryError(f"the weights of {chosen!r} do not fit {where}: choose a smaller model") from error
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise PrefixKVError(f"model {chosen!r} cannot be loaded: {reason[:300]}") from error
    return LoadedModel(chosen, model.eval(), processor, geometry, where, takes_images, time.perf_counter() - started)


def profile_name(name: str) -> str:
    """The name under which a model's profile is saved."""
    wanted = "demo" if name == "auto" else ALIASES.get(name, name)
    plain = re.sub(r"[^A-Za-z0-9._-]+", "--", str(Path(wanted).expanduser())).strip(".-")
    return plain[-100:].strip(".-")


def weight_bytes(name: str) -> int:
    """Bytes of a model's weights: built in for well-known models, else the sizes of the files in its folder.

    Raises:
        PrefixKVError: neither is to be had.
    """
    if name in SHAPES:
        shape = SHAPES[name]
        return shape.parameters * DTYPE_BYTES[shape.geometry.dtype]
    folder = Path(_source(name))
    total = sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder.is_dir() else 0
    if not total:
        raise PrefixKVError(f"the size of {name!r} is not known: give its folder with safetensors files")
    return total


def gpu_bytes() -> int:
    """Memory of this machine's first CUDA device.

    Raises:
        PrefixKVError: there is none.
    """
    import torch

    if not torch.cuda.is_available():
        raise PrefixKVError("there is no GPU on this machine: say what to fit with --device-memory 80GB")
    return torch.cuda.get_device_properties(0).total_memory


def weights_are_here(name: str) -> bool:
    """Whether a model can be loaded without the network."""
    wanted = ALIASES.get(name, name)
    if wanted in ("auto", "demo") or Path(wanted).expanduser().is_dir():
        return True
    from huggingface_hub import try_to_load_from_cache

    files = ("model.safetensors", "model.safetensors.index.json")
    return any(isinstance(try_to_load_from_cache(wanted, file), str) for file in files)


def read_identity(name: str) -> ModelIdentity:
    """A model's shape and fingerprint, from its configuration alone.

    Raises:
        PrefixKVError: the configuration cannot be had.
    """
    check_model_name(name)
    import transformers

    wanted = ALIASES.get(name, name)
    transformers.logging.set_verbosity_error()
    try:
        config = transformers.AutoConfig.from_pretrained(_source(wanted))
    except (OSError, ValueError) as error:
        raise PrefixKVError(
            f"the configuration of {wanted!r} cannot be read: {' '.join(str(error).split())[:300]}"
        ) from error
    dtype = str(config.dtype or "float32").removeprefix("torch.")
    return ModelIdentity.of(wanted, config, dtype)


def _device(name: str) -> torch.device:
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
        return ALIASES.get(name, name)
    from huggingface_hub import try_to_load_from_cache

    llava = ALIASES["llava"]
    cached = try_to_load_from_cache(llava, "model.safetensors.index.json")
    if isinstance(cached, str):
        return llava
    if device.type == "cuda" and _hub_has(llava):
        notify(f"downloading {llava} (14 GB), once")
        return llava
    notify(DEMO_NOTICE)
    return "demo"


def _source(name: str) -> str:
    """What transformers is to load: a folder or a hub id."""
    if name == "demo":
        from prefixkv.demo import weights_path

        return str(weights_path())
    return str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name


def _hub_has(name: str) -> bool:
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("0", ""):
        return False
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(name, timeout=5)
    except Exception:  # the hub's client raises many kinds; whichever it is, the model cannot be had
        return False
    return True
