"""Measure the demo model on unseen questions: `python -m tools.demo.evaluate --questions 1000 --seed 1`.

The pictures come from `prefixkv.demo.questions.question_set`, with `--documents` from `document_set` of
`prefixkv.demo.documents.questions`; training never reaches their seeds. Answers are decoded greedily by the stock
`generate` and compared exactly; of transcriptions the wrong characters are counted too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from prefixkv.demo import weights_path
from prefixkv.demo.documents.document import Document, draw_document
from prefixkv.demo.documents.questions import document_set
from prefixkv.demo.questions import Question, question_set
from prefixkv.demo.scenes import IMAGE_PIXELS, Scene
from tools.demo.edit_distance import edit_distance
from tools.demo.packing import ALL_KINDS

if TYPE_CHECKING:
    from transformers import LlavaProcessor

_BLANK_GREY = (128, 128, 128)
_LONG_KINDS = ("describe", "transcription")
_LONG_TOKENS, _SHORT_TOKENS = 320, 64

Pair = tuple[Scene | Document, Question]


def messages(question: Question) -> list[dict[str, Any]]:
    """The conversation that ends with the question, for `apply_chat_template`; the picture is in the first turn."""
    turns: list[dict[str, Any]] = []
    for asked, answer in question.context:
        turns.append({"role": "user", "content": [{"type": "text", "text": asked}]})
        turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    turns.append({"role": "user", "content": [{"type": "text", "text": question.question}]})
    turns[0]["content"].insert(0, {"type": "image"})
    return turns


def answer_questions(
    model: Any,
    processor: LlavaProcessor,
    pairs: Sequence[Pair],
    batch_size: int = 16,
    blank: bool = False,
) -> list[str]:
    """Greedy answers of the model.

    Args:
        model: A `LlavaForConditionalGeneration` on any device.
        processor: Its processor.
        pairs: Pictures and questions, as `question_set` gives them.
        batch_size: Questions decoded together.
        blank: Show a plain grey picture in place of every picture.

    Returns:
        One answer a question, in the same order.
    """
    import torch

    prompts = [processor.apply_chat_template(messages(question), add_generation_prompt=True) for _, question in pairs]
    answers = [""] * len(pairs)
    # Batches of similar length: padding costs time, and one description would hold up a batch of short answers.
    order = sorted(range(len(pairs)), key=lambda index: (pairs[index][1].kind in _LONG_KINDS, len(prompts[index])))
    plain = Image.new("RGB", (IMAGE_PIXELS, IMAGE_PIXELS), _BLANK_GREY)
    start = 0
    while start < len(order):
        is_long = pairs[order[start]][1].kind in _LONG_KINDS
        rows = [i for i in order[start : start + batch_size] if (pairs[i][1].kind in _LONG_KINDS) == is_long]
        start += len(rows)
        inputs = processor(
            images=[plain if blank else pairs[row][0].image for row in rows],
            text=[prompts[row] for row in rows],
            padding=True,
            return_tensors="pt",
        ).to(model.device)
        with torch.inference_mode():
            limit = _LONG_TOKENS if is_long else _SHORT_TOKENS
            output = model.generate(**inputs, max_new_tokens=limit, do_sample=False)
        new = output[:, inputs["input_ids"].shape[1] :]
        for row, text in zip(rows, processor.batch_decode(new, skip_special_tokens=True), strict=True):
            answers[row] = text.strip()
    return answers


def accuracy(pairs: Sequence[Pair], answers: list[str]) -> dict[str, Any]:
    """Exact-match accuracy, overall and by kind, as a JSON-ready dict.

    With documents also the accuracy of short answers alone, and the share of characters that transcriptions have wrong:
    insertions, deletions and replacements over the characters of the right texts.
    """
    right: dict[str, list[bool]] = defaultdict(list)
    for (_, question), answer in zip(pairs, answers, strict=True):
        right[question.kind].append(answer == question.answer)
    every = [value for values in right.values() for value in values]
    short = [value for kind, values in right.items() if kind not in _LONG_KINDS for value in values]
    texts = [(q.answer, said) for (_, q), said in zip(pairs, answers, strict=True) if q.kind == "transcription"]
    reading = {}
    if texts and short:
        wrong = sum(edit_distance(*text) for text in texts)
        reading = {
            "short_answers": round(sum(short) / len(short), 4),
            "wrong_characters": round(wrong / sum(len(text) for text, _ in texts), 5),
        }
    return {
        "questions": len(every),
        "accuracy": round(sum(every) / len(every), 4),
        "kinds": {
            kind: {"questions": len(right[kind]), "accuracy": round(sum(right[kind]) / len(right[kind]), 4)}
            for kind in ALL_KINDS
            if kind in right
        },
        **reading,
    }


def document_pairs(questions: int, seed: int) -> list[tuple[Document, Question]]:
    """Documents and questions, every kind of question equally frequent."""
    return [(draw_document(picture, kind), question) for picture, kind, question in document_set(questions, seed)]


def evaluate(
    folder: Path, pairs: Sequence[Pair], seed: int, blanks: tuple[bool, ...], device: str, batch_size: int
) -> list[dict[str, Any]]:
    """Load the model of a folder and measure it on a test set, once for every entry of `blanks`."""
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    model: Any = LlavaForConditionalGeneration.from_pretrained(folder)
    model.to(device).eval()
    processor = AutoProcessor.from_pretrained(folder)
    results = []
    for blank in blanks:
        answers = answer_questions(model, processor, pairs, batch_size, blank)
        results.append({"seed": seed, "blank_pictures": blank, "device": device, **accuracy(pairs, answers)})
    return results


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m tools.demo.evaluate", description="Measure the demo model.")
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--blank", action="store_true", help="show a plain grey picture instead of the scenes")
    parser.add_argument("--documents", action="store_true", help="ask about documents instead of scenes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=16, help="questions decoded together")
    parser.add_argument("--weights", type=Path, help="folder of the model; default: the bundled one")
    parser.add_argument("--metrics", type=Path, help="write the accuracy with and without pictures to this file")
    options = parser.parse_args()
    folder = options.weights or weights_path()
    pairs = (
        document_pairs(options.questions, options.seed)
        if options.documents
        else question_set(options.questions, options.seed)
    )
    blanks = (False, True) if options.metrics else (options.blank,)
    results = evaluate(folder, pairs, options.seed, blanks, options.device, options.batch)
    result = results[0]
    if options.metrics:
        kept = options.weights.resolve().parent if options.weights else Path(__file__).parent
        training = json.loads((kept / "training.json").read_text(encoding="utf-8"))
        facts = {"with_pictures": results[0], "with_blank_pictures": results[1], "training": training}
        options.metrics.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    if options.json:
        json.dump(result, sys.stdout, indent=2)
        print()
        return
    print(f"exact answers: {result['accuracy']:.1%} of {result['questions']} questions")
    for kind, figures in result["kinds"].items():
        print(f"  {kind:<14} {figures['accuracy']:7.1%} of {figures['questions']}")


if __name__ == "__main__":
    main()
