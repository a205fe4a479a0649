"""What differs between versions of transformers, or is no documented part of it, in one place.

Tested with transformers 5.17 and 5.24. Importing this module loads neither torch nor transformers.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prefixkv.errors import PrefixKVError


@functools.cache
def _cache_argument_name() -> str:
    """The name of the cache among the arguments of `generate` and of every model: `cache` since transformers 5.24."""
    from transformers import GenerationMixin

    known = inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
    return "cache" if "cache" in known else "past_key_values"


def cache_argument(cache: Any) -> dict[str, Any]:
    """The keyword argument that hands a cache to `generate` or to a model: `model(**inputs, **cache_argument(cache))`.

    Args:
        cache: a compressed one or one of transformers' own.

    Returns:
        `{"cache": cache}`, or `{"past_key_values": cache}` for a transformers before 5.24.
    """
    return {_cache_argument_name(): cache}


def cache_in(arguments: Mapping[str, Any]) -> Any:
    """The cache among the keyword arguments of a model or of one of its layers, or a model's output; None if none."""
    return arguments["cache"] if "cache" in arguments else arguments.get("past_key_values")


class LayersDifferError(PrefixKVError):
    """A configuration has no single value of a name, because its layers differ in it."""


def setting(config: Any, name: str, default: Any = None) -> Any:
    """One value of a configuration, for all layers. Everything that is read off a text part is read here.

    A heterogeneous configuration (Gemma 4: `per_layer_config`) raises a RuntimeError, not an AttributeError, for what
    its layers differ in, so that a default of `getattr` is of no help.

    Args:
        config: of transformers, whole or the text part, or a `prefixkv.models.config_file.ConfigFile`.
        name: of the value.
        default: where there is none.

    Raises:
        LayersDifferError: not all layers have the same.
    """
    if not getattr(config, "is_heterogeneous", False):
        return getattr(config, name, default)
    values = [getattr(layer, name, default) for layer in config.per_layer_config]
    if any(value != values[0] for value in values):
        raise LayersDifferError(f"its layers differ in {name}")
    return values[0] if values else default


def asks_for_states() -> bool:
    """Whether models ask a cache for their layers' states; up to 5.17 they take them from its list of layers."""
    from transformers import Cache

    return hasattr(Cache, "get_conv_state")


def layer_config(config: Any, place: int) -> Any:
    """The configuration of one layer of a text part: of a heterogeneous one the layer's own.

    Args:
        config: of the text part.
        place: of the layer among all decoder layers.
    """
    return config.per_layer_config[place] if getattr(config, "is_heterogeneous", False) else config


def picture_token_ids(config: Any) -> list[int]:
    """The ids that stand for a part of a picture or film in the text, the picture's first.

    Args:
        config: of the whole model; which name the id has depends on its family.
    """
    names = ("image_token_id", "image_token_index", "video_token_id")
    found = [int(token) for name in names if (token := getattr(config, name, None)) is not None]
    return list(dict.fromkeys(found))


def parse_template(template: str) -> Any:
    """A chat template as Jinja's tree of nodes. It is not compiled: that computes what is constant, at whatever cost.

    Args:
        template: in Jinja, with the tags that transformers adds to it.

    Raises:
        jinja2.TemplateError: it cannot be parsed.
    """
    from transformers.utils.chat_template_utils import _compile_jinja_template

    return _compile_jinja_template("").environment.parse(template)


def reads_images(config: Any) -> bool:
    """Whether transformers loads a model as one of pictures and text.

    Args:
        config: of the whole model.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    return config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def decoder_of(model: Any) -> Any:
    """The module that has a model's decoder layers; Llama 4 with pictures names the one around it, which has the head.

    Args:
        model: a language or vision-language model of transformers.
    """
    decoder = model.get_decoder()
    while not hasattr(decoder, "layers") and hasattr(decoder, "model"):
        decoder = decoder.model
    return decoder


def tensor_parallel_size(model: Any) -> int:
    """How many processes each have a part of every layer, where a model was loaded with `tp_plan`; else 1."""
    return getattr(model, "_tp_size", None) or 1


def rotation_of(decoder: Any) -> Callable[..., Any] | None:
    """The function that turns queries and keys by their positions' angles: it stands beside a decoder's class.

    Args:
        decoder: of a model of transformers.

    Returns:
        Called with queries, keys, cosine and sine; None where the module has no function of that name.
    """
    found: Callable[..., Any] | None = getattr(sys.modules[type(decoder).__module__], "apply_rotary_pos_emb", None)
    if found is None or next(iter(inspect.signature(found).parameters)) != "x":
        return found
    one = found  # Gemma 3n and 4 turn queries and keys one after the other.
    return lambda queries, keys, cosine, sine: (one(queries, cosine, sine), one(keys, cosine, sine))


@contextlib.contextmanager
def chosen_attention(
    model: Any, name: str, attend: Callable[..., Any], make_mask: Callable[..., Any]
) -> Iterator[None]:
    """Have the text part of a model run its attention through a function; what was chosen before comes back.

    The part is chosen by its own module, so that it does not matter how deep in the model it is: an omni model has it
    at `thinker_config.text_config`, which a dictionary for `set_attn_implementation` reaches in some versions only.

    Args:
        model: a language or vision-language model of transformers.
        name: of the attention implementation, in transformers' tables.
        attend: called as an attention function of transformers' AttentionInterface.
        make_mask: called as a mask function of transformers' AttentionMaskInterface.

    Raises:
        PrefixKVError: the model does not let its attention be chosen.
    """
    from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, make_mask)
    config = model.config.get_text_config(decoder=True)
    parts = (part for part in model.modules() if isinstance(part, PreTrainedModel) and part.config is config)
    part, before = next(parts, None), config._attn_implementation
    if part is not None:
        part.set_attn_implementation(name)
    if part is None or config._attn_implementation != name:
        raise PrefixKVError(f"{type(model).__name__} does not let its attention be chosen: it cannot be compressed")
    try:
        yield
    finally:
        part.set_attn_implementation(before)


def is_capturing_hook(hook: Callable[..., Any]) -> bool:
    """Whether a forward hook is one of transformers' own, which it leaves on layers whose hidden states were asked for.

    It changes nothing, and notes nothing unless the pass asks for hidden states or attention.
    """
    return str(getattr(hook, "__module__", "")).startswith("transformers.utils.")


def first_position(config: Any) -> int:
    """The position of a text's first token: PaliGemma's 1, Kosmos's the one behind its padding's, all others' 0.

    Args:
        config: of the whole model.
    """
    if config.model_type in ("kosmos-2", "kosmos-2.5"):
        return int(config.get_text_config(decoder=True).pad_token_id) + 1
    return int(config.model_type == "paligemma")


def logits_processors(model: Any, settings: Mapping[str, Any], tokens: Any, new_tokens: int) -> Any:
    """The logits processors that stock `generate` makes of some generation settings, in its own order.

    Args:
        model: of transformers.
        settings: attributes of GenerationConfig by their names; those of the end tokens are the model's.
        tokens: (1, prompt_tokens), int64.
        new_tokens: longest answer.

    Returns:
        A LogitsProcessorList: called with the tokens so far, (1, tokens), and logits, (1, vocabulary).
    """
    from transformers import GenerationConfig

    config = GenerationConfig(
        **settings, do_sample=False, eos_token_id=model.generation_config.eos_token_id, max_new_tokens=new_tokens
    )
    length = tokens.shape[1]
    config.max_length = length + new_tokens
    ends = config.eos_token_id
    ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
    config._eos_token_tensor = tokens.new_tensor(ends) if ends else None
    return model._get_logits_processor(
        generation_config=config,
        input_ids_seq_length=length,
        encoder_input_ids=tokens,
        device=str(tokens.device),
        model_kwargs={},
    )


def token_decoder(tokenizer: Any) -> Callable[[list[int], bool], str]:
    """A tokenizer's `decode`, of token ids and whether special tokens are left out.

    Where that does nothing but look at its arguments and ask the `tokenizers` library, this asks the library at once,
    which takes a quarter of the time.

    Args:
        tokenizer: of transformers.
    """
    from transformers import PreTrainedTokenizerFast as Fast

    kind, own = type(tokenizer), vars(tokenizer)
    is_plain = isinstance(tokenizer, Fast) and not getattr(tokenizer, "clean_up_tokenization_spaces", True)
    if is_plain and all(
        getattr(kind, name) is getattr(Fast, name) and name not in own for name in ("decode", "_decode")
    ):
        decode = tokenizer.backend_tokenizer.decode
        return lambda tokens, skips: str(decode(tokens, skip_special_tokens=skips))
    return lambda tokens, skips: str(tokenizer.decode(tokens, skip_special_tokens=skips))


def is_quantized(config: Any) -> bool:
    """Whether a configuration says how its model's weights are packed.

    Args:
        config: of a model of transformers.

    Raises:
        PrefixKVError: it says so in a way that transformers passes over, and reads packed weights as they are.
    """
    asked = getattr(config, "quantization_config", None)
    if not asked:
        return getattr(config.get_text_config(decoder=True), "quantization_config", None) is not None
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING as KNOWN

    said: Any = asked.to_dict() if hasattr(asked, "to_dict") else asked
    if isinstance(said, dict) and (said.get("load_in_4bit") or said.get("load_in_8bit")):
        return True
    method = said.get("quant_method") if isinstance(said, dict) else said
    # Names of transformers are of an enumeration of texts.
    if not isinstance(method, str) or method not in KNOWN:
        raise PrefixKVError(
            f"config.json asks for the quantisation {str(method)[:100]!r}, which this transformers does not know: take "
            "the model that it was made of, or a newer transformers"
        )
    return True


def looks_for_outliers(module: Any) -> bool:
    """Whether a module is a layer of 8 bits that sets large activations apart (LLM.int8(), arXiv 2208.07339).

    Transformers sets `llm_int8_threshold` to 6 where nobody says otherwise; bitsandbytes keeps it in the layer's state.
    """
    threshold = getattr(getattr(module, "state", None), "threshold", 0.0)
    return isinstance(threshold, float) and threshold > 0
