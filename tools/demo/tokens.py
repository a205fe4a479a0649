"""The byte-level tokenizer of the demo model and its chat template."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefixkv.demo.glyphs import LETTERS
from prefixkv.demo.phrasing import all_wordings
from prefixkv.demo.questions import scene_questions
from prefixkv.demo.scenes import TRAINING_SEED_START, draw_scene

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, IMAGE = "<pad>", "<s>", "</s>", "<image>"
VOCABULARY_SIZE = 1024
IMAGE_TOKENS = 576

# A user turn ends with the space before "ASSISTANT:" and an answer begins with one, so the prompt of a turn is the
# prompt of the turn before plus its answer plus new text: a conversation can feed only what is new.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['content'] is string %}{% set text = message['content'] %}{% set images = 0 %}"
    "{% else %}{% set images = message['content'] | selectattr('type', 'equalto', 'image') | list | length %}"
    "{% set text = message['content'] | selectattr('type', 'equalto', 'text') | map(attribute='text') | join(' ') %}"
    "{% endif %}"
    "{% if message['role'] == 'system' %}{{ text + ' ' }}"
    "{% elif message['role'] == 'user' %}{{ 'USER: ' + '<image>\n' * images + text + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + text + eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)

# Ordinary words, so that a question of the user's own does not fall apart into single bytes.
_ENGLISH = """
the of and to in is that it was for on are with as be at this have from or had by not but some what there we can out
other were all your when up use word how said each she which do their time if will way about many then them would
write like these her long make thing see him two has look more day could go come did my no most who over know than
call first people may down side been now find any new work part take get place made live where after back little only
round man year came show every good me give our under name very through just form much great think say help low line
before turn cause same mean differ move right boy old too does tell sentence set three want air well also play small
end put home read hand port large spell add even land here must big high such follow act why ask men change went light
kind off need house picture try us again animal point mother world near build self earth father head stand own page
should country found answer school grow study still learn plant cover food sun four thought let keep eye never last
door between city tree cross since hard start might story saw far sea draw left late run while press close night real
life few stop open seem together next white children begin got walk example ease paper often always music those both
mark book letter until mile river car feet care second group carry took rain eat room friend began idea fish mountain
north once base hear horse cut sure watch color face wood main enough plain girl usual young ready above ever red list
though feel talk bird soon body dog family direct pose leave song measure state product black short numeral class wind
question happen complete ship area half rock order fire south problem piece told knew pass farm top whole king size
heard best hour better true during hundred am remember step early hold west ground interest reach fast five sing listen
six table travel less morning ten simple several vowel toward war lay against pattern slow center love person money
image photo background describe colour object explain detail please because without hello thanks yes seven eight nine
"""


def _corpus() -> list[str]:
    texts = [_ENGLISH, *all_wordings(), "USER: ASSISTANT: " * 50]
    texts += [f"the letter {letter}. {letter}, {letter}" for letter in LETTERS for _ in range(20)]
    for seed in range(TRAINING_SEED_START, TRAINING_SEED_START + 400):
        for item in scene_questions(draw_scene(seed), 0):
            texts += [
                f"{question} ASSISTANT: {answer}" for question, answer in (*item.context, (item.question, item.answer))
            ]
    return texts


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer on the questions, the answers and a list of common words; the same every time."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[PAD, BOS, EOS, IMAGE],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        extra_special_tokens={"image_token": IMAGE},
        model_max_length=4096,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
