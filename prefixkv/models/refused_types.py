"""Types of models that cannot be compressed, by transformers' name, with the reason: a short list of kinds."""

from __future__ import annotations

from typing import Any

from prefixkv.errors import PrefixKVError

CROSS_ATTENTION = (
    "it is an encoder-decoder, or looks at pictures by cross-attention: what fills its cache is another part's output, "
    "which has no entry for each token of a text"
)
STATE = "none of its layers keeps a key and a value for every token, but a state of fixed size"
ONLY_WINDOWS = "all its layers attend to a sliding window, whose cache is already bounded"
ACTIONS = "it moves a robot and writes no text"
DIFFUSION = "it does not generate token by token"

OWN_ATTENTION = "its attention is code of its own, which transformers cannot replace"
INDEX = "its layers choose by an index of their own which entries they read, and keep the index beside them"
OWN_COMPRESSION = "its layers compress what they keep in a way of their own"

PICTURE_EACH_PASS = "it asks for a picture in every pass, those that write an answer too"
NESTED = "its decoders stand one in another, and read at different paces"
TWO_COUNTS = "transformers counts its positions in two ways, one in generate and another in the model itself"
BIAS = "its attention adds a bias of its own for every earlier token, evicted ones too"

REFUSED_KINDS = {
    "deepseek_sparse_attention": INDEX,
    "indexed_attention": INDEX,
    "heavily_compressed_attention": OWN_COMPRESSION,
    "compressed_sparse_attention": OWN_COMPRESSION,
    "reference_sliding_attention": OWN_COMPRESSION,
}
"""By the kind of a layer."""

REFUSED_TYPES = {
    "mllama": CROSS_ATTENTION,
    "idefics": CROSS_ATTENTION,
    "florence2": CROSS_ATTENTION,
    "blip": CROSS_ATTENTION,
    "mamba": STATE,
    "mamba2": STATE,
    "falcon_mamba": STATE,
    "rwkv": STATE,
    "xlstm": STATE,
    "recurrent_gemma": STATE,
    "diffusion_gemma": DIFFUSION,
    "pi0": ACTIONS,
    "inkling2": BIAS,
    "inkling2_text": BIAS,
    "inkling2_loop": BIAS,
    "inkling2_loop_text": BIAS,
    "inkling_mm_model": BIAS,
    "inkling_text": BIAS,
    "doge": BIAS,
    "blip-2": PICTURE_EACH_PASS,
    "instructblip": PICTURE_EACH_PASS,
    "instructblipvideo": PICTURE_EACH_PASS,
    "git": OWN_ATTENTION,
    "blt": NESTED,
    **dict.fromkeys(("roberta", "roberta-prelayernorm", "camembert", "data2vec-text"), TWO_COUNTS),
    **dict.fromkeys(("xlm-roberta", "xlm-roberta-xl"), TWO_COUNTS),
    "gpt_neo": OWN_ATTENTION,
    "jetmoe": OWN_ATTENTION,
    "xglm": OWN_ATTENTION,
    "xlnet": OWN_ATTENTION,
    "trocr": OWN_ATTENTION,
    "rembert": OWN_ATTENTION,
    "roformer": OWN_ATTENTION,
    "megatron-bert": OWN_ATTENTION,
    "gpt_neox_japanese": OWN_ATTENTION,
    "bloom": OWN_ATTENTION,
    "falcon": OWN_ATTENTION,
    "cpmant": OWN_ATTENTION,
    "big_bird": OWN_ATTENTION,
    "diffllama": OWN_ATTENTION,
}
"""By `model_type` of the whole model or of its text part."""


def refusal(config: Any, reason: str) -> PrefixKVError:
    """The error of a model that cannot be compressed, in one line.

    Args:
        config: of the whole model.
        reason: why.
    """
    return PrefixKVError(
        f"{' '.join(str(config.model_type).split())[:80]} models cannot be compressed: {reason}; choose another model"
    )
