"""Two questions to the demo model under several caches, side by side: `python -m tools.demo.side_by_side`.

The second one has a long answer: the first token of an answer is computed before anything is evicted, so an answer of
one token says nothing about a cache.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

import prefixkv
from prefixkv.demo.documents.document import draw_document

QUESTIONS = ("What is the total?", "Read the text.")
RECEIPT_SEED = 8
CACHES = (("full", "100%"), ("guided", "20%"), ("h2o", "20%"))
"""Method and budget of each column; the first one is what the others are compared with."""


@dataclass(frozen=True)
class Said:
    """What the model said under one cache.

    Attributes:
        method: how entries were chosen.
        kept_fraction: bytes kept of the full cache's, of the question that kept the largest part.
        answers: the lines of each answer, in the order of `QUESTIONS`.
        right: for each line of each answer, whether it is one of those that the full cache gives.
    """

    method: str
    kept_fraction: float
    answers: list[list[str]]
    right: list[list[bool]]

    @property
    def title(self) -> str:
        """The cache in words."""
        name = "the full cache" if self.method == "full" else f"{self.method}, {self.kept_fraction:.0%} of the bytes"
        every = [right for answer in self.right for right in answer]
        return f"{name}: {sum(every)} of {len(every)} lines right"


def ask() -> list[Said]:
    """The answers about a drawn receipt, for each of `CACHES`, each question in a conversation of its own."""
    loaded = prefixkv.load_model("demo", device="cpu")
    picture = draw_document(RECEIPT_SEED, "receipt").image
    told: list[Said] = []
    for method, budget in CACHES:
        answers: list[list[str]] = []
        fractions: list[float] = []
        for question in QUESTIONS:
            talk = prefixkv.Conversation(loaded, budget, method)
            answers.append("".join(talk.ask(question, [picture])).strip().split("\n"))
            usage = talk.cache.usage()
            fractions.append(usage.kept_bytes / usage.full_bytes)
        full = told[0].answers if told else answers
        right = [[line in known for line in lines] for lines, known in zip(answers, full, strict=True)]
        told.append(Said(method, max(fractions), answers, right))
    return told


def markdown(told: list[Said]) -> str:
    """The README's table: what the full cache does not give is struck out."""
    rows = [["", *(said.title for said in told)], ["---"] * (len(told) + 1)]
    for number, question in enumerate(QUESTIONS):
        cells = (zip(said.answers[number], said.right[number], strict=True) for said in told)
        rows.append(
            [question, *("<br>".join(text if right else f"~~{text}~~" for text, right in lines) for lines in cells)]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def table(told: list[Said]) -> Table:
    """The same for a terminal."""
    shown = Table(title=f"demo-scene --kind receipt --seed {RECEIPT_SEED}", show_lines=True)
    shown.add_column("")
    for said in told:
        shown.add_column(said.title, ratio=1)
    for number, question in enumerate(QUESTIONS):
        texts = [
            Text("\n").join(
                Text(text, "" if right else "red")
                for text, right in zip(said.answers[number], said.right[number], strict=True)
            )
            for said in told
        ]
        shown.add_row(question, *texts)
    return shown


def main() -> None:
    """Ask and print."""
    parser = argparse.ArgumentParser(prog="python -m tools.demo.side_by_side", description=__doc__)
    parser.add_argument("--markdown", action="store_true", help="print the README's table")
    options = parser.parse_args()
    told = ask()
    if options.markdown:
        print(markdown(told), end="")
    else:
        Console().print(table(told))


if __name__ == "__main__":
    main()
