"""The bundled model and its processor: template, tokens as in training, and answers about fresh pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from prefixkv.demo import SCENE_SEED, scene_path, weights_path
from prefixkv.demo.questions import question_set, scene_questions
from prefixkv.demo.scenes import draw_scene
from tools.demo.evaluate import accuracy, answer_questions, document_pairs, messages
from tools.demo.forward import PackedForward
from tools.demo.packing import Packer


@pytest.fixture(scope="module")
def processor() -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(weights_path())


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import LlavaForConditionalGeneration

    return LlavaForConditionalGeneration.from_pretrained(weights_path()).eval()


def test_the_weights_fit_in_the_package():
    files = list(weights_path().iterdir())
    assert sum(file.stat().st_size for file in files) <= 40e6
    assert max(file.stat().st_size for file in files) <= 15e6


def test_architecture(model):
    text = model.config.text_config
    assert text.num_hidden_layers >= 8
    assert text.num_attention_heads == 3 * text.num_key_value_heads
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_longer_conversation_extends_the_prompt_of_a_shorter_one(processor):
    turns = [("How many stars are there?", "2"), ("And the one below it?", "red"), ("Describe the image.", "A star.")]
    said, before = [], None
    for number, (question, answer) in enumerate(turns):
        image = [{"type": "image"}] if number == 0 else []
        said.append({"role": "user", "content": [*image, {"type": "text", "text": question}]})
        prompt = processor.apply_chat_template(said, add_generation_prompt=True)
        if before is not None:
            assert prompt.startswith(before)
        said.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        before = f"{prompt} {answer}</s>"
        assert processor.apply_chat_template(said) == before
    assert prompt.startswith("<s>USER: <image>\nHow many stars are there? ASSISTANT: 2</s>USER: And")


def test_training_reads_the_tokens_that_the_processor_gives(processor):
    packer = Packer(processor.tokenizer, 64)
    scene = draw_scene(3)
    for question in scene_questions(scene, 0):
        turns = [(asked, answer, 0) for asked, answer in (*question.context, (question.question, question.answer))]
        answered = [*messages(question), {"role": "assistant", "content": [{"type": "text", "text": question.answer}]}]
        ids = processor(images=scene.image, text=processor.apply_chat_template(answered))["input_ids"]
        ours = [
            *packer.prefix,
            *(token for block in packer.encode_block(turns) for part in block[:2] for token in part),
        ]
        assert list(np.ravel(ids)) == ours
        assert ours[-1] == processor.tokenizer.eos_token_id


def test_any_text_survives_the_tokenizer(processor):
    text = "Grüße, 你好! How 'bout {this}?\n\tyes"
    assert processor.tokenizer.decode(processor.tokenizer.encode(text)) == text


def test_descriptions_are_long(processor):
    for seed in range(200):
        answer = next(item.answer for item in scene_questions(draw_scene(seed), 0) if item.kind == "describe")
        assert len(processor.tokenizer.encode(answer, add_special_tokens=False)) >= 60


def test_the_forward_of_training_is_that_of_the_stock_model(model, processor):
    scene = draw_scene(11)
    packer = Packer(processor.tokenizer, 96)
    packed = packer.pack(scene_questions(scene, 0), np.random.default_rng(1))
    forward = PackedForward(model, torch.float32, compiled=False, flex=False)
    row = {name: torch.from_numpy(getattr(packed, name))[None] for name in ("tokens", "segments", "positions")}
    with torch.inference_mode():
        patches = forward.patches(torch.from_numpy(np.array(scene.image))[None])
        ours = forward.logits(
            patches,
            torch.from_numpy(packer.prefix),
            row["tokens"].long(),
            row["segments"].int(),
            row["positions"].long(),
        )
        pixels = processor.image_processor(scene.image, return_tensors="pt")["pixel_values"]
        for block in (1, 2):
            chosen = packed.segments == block
            ids = torch.from_numpy(np.concatenate([packer.prefix, packed.tokens[chosen]]))[None]
            stock = model(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids)).logits
            wanted = stock[0, len(packer.prefix) : -1]
            torch.testing.assert_close(ours[0, torch.from_numpy(chosen)][1:], wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.exhaustive
def test_the_model_answers_and_needs_the_picture(model, processor):
    pairs = question_set(30, 2024)
    assert accuracy(pairs, answer_questions(model, processor, pairs))["accuracy"] >= 0.92
    assert accuracy(pairs, answer_questions(model, processor, pairs, blank=True))["accuracy"] < 0.45


@pytest.mark.exhaustive
def test_the_model_reads_documents_of_any_size(model, processor):
    """Two questions of each kind; a blank picture gives yes, no and small numbers at best."""
    pairs = document_pairs(20, 2024)
    assert len({pair[0].image.size for pair in pairs}) > 10
    read = accuracy(pairs, answer_questions(model, processor, pairs))
    assert read["short_answers"] >= 0.92
    assert read["wrong_characters"] <= 0.02
    short = [pair for pair in pairs if pair[1].kind != "transcription"]
    assert accuracy(short, answer_questions(model, processor, short, blank=True))["accuracy"] < 0.45


@pytest.mark.exhaustive
def test_the_bundled_picture_is_one_that_the_model_understands(model, processor):
    scene = draw_scene(SCENE_SEED)
    with Image.open(scene_path()) as image:
        assert image.tobytes() == scene.image.tobytes()
    pairs = [(scene, question) for question in scene_questions(scene, 0)]
    assert accuracy(pairs, answer_questions(model, processor, pairs))["accuracy"] >= 0.92
