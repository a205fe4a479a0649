"""What makes a model's prompts and reads its tokens: all of it but the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefixkv.errors import PrefixKVError
from prefixkv.models.config_file import check_config_file
from prefixkv.models.names import source_of
from prefixkv.models.pretrained import read_part, reading
from prefixkv.transformers_compat import reads_images

if TYPE_CHECKING:
    from prefixkv.models.loading import LoadedModel


@dataclass(frozen=True)
class Frontend:
    """A model as those see it who ask it and have not loaded it.

    Attributes:
        id: `demo`, the hub id or the folder.
        processor: turns text and images into model inputs; a bare tokenizer for a language model without images.
        config: of transformers.
        generation_config: the settings of answers as the loaded model has them; None while nobody has loaded it.
        takes_images: whether the model reads images.
    """

    id: str
    processor: Any
    config: Any
    generation_config: Any
    takes_images: bool

    @classmethod
    def of(cls, loaded: LoadedModel) -> Frontend:
        """That of a model which is loaded here."""
        model = loaded.model
        return cls(loaded.id, loaded.processor, model.config, model.generation_config, loaded.takes_images)

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return getattr(self.processor, "tokenizer", self.processor)


def read_frontend(name: str, trust_remote_code: bool = False) -> Frontend:
    """Read it from files that are here.

    Args:
        name: `demo`, a hub id or a folder.
        trust_remote_code: whether Python that comes with the files may run.

    Raises:
        PrefixKVError: files are missing or broken.
    """
    source = source_of(name)
    import transformers

    with reading(f"model {name!r}"):
        check_config_file(name)
        config = read_part(transformers.AutoConfig, source, trust_remote_code)
        return Frontend(name, read_processor(name, config, trust_remote_code), config, None, reads_images(config))


def read_processor(name: str, config: Any, trust_remote_code: bool = False) -> Any:
    """A model's processor, or the tokenizer of one that reads no images.

    Args:
        name: `demo`, a hub id or a folder.
        config: of the model.
        trust_remote_code: whether Python that comes with the files may run.

    Raises:
        PrefixKVError: the model reads images, and transformers finds a tokenizer alone.
    """
    import transformers

    takes_images = reads_images(config)
    reader = transformers.AutoProcessor if takes_images else transformers.AutoTokenizer
    processor = read_part(reader, source_of(name), trust_remote_code)
    if takes_images and not hasattr(processor, "tokenizer"):
        raise PrefixKVError(
            f"model {name!r} names no processor for pictures that transformers knows: download it again"
        )
    return processor
