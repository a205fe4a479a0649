"""One question to the demo model under several caches, side by side: `python -m tools.demo.side_by_side`.

The question is one whose answer is long: the first token of an answer is computed before anything is evicted, so an
answer of one token says nothing about a cache.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

import prefixkv
from prefixkv.demo.documents.document import draw_document

QUESTION = "Read the text."
RECEIPT_SEED = 8
CACHES = (("full", "100%"), ("guided", "20%"), ("h2o", "20%"))
"""Method and budget of each column; the first one is what the others are compared with."""


@dataclass(frozen=True)
class Said:
    """What the model said under one cache.

    Attributes:
        method: how entries were chosen.
        kept_fraction: bytes kept of the full cache's.
        lines: of the answer.
        right: for each line, whether it is one of those that the full cache gives.
    """

    method: str
    kept_fraction: float
    lines: list[str]
    right: list[bool]

    @property
    def title(self) -> str:
        """The cache in words."""
        name = "the full cache" if self.method == "full" else f"{self.method}, {self.kept_fraction:.0%} of the bytes"
        return f"{name}: {sum(self.right)} of {len(self.right)} lines right"


def ask() -> list[Said]:
    """The answers about a drawn receipt, one for each of `CACHES`."""
    loaded = prefixkv.load_model("demo", device="cpu")
    picture = draw_document(RECEIPT_SEED, "receipt").image
    told: list[Said] = []
    for method, budget in CACHES:
        talk = prefixkv.Conversation(loaded, budget, method)
        lines = "".join(talk.ask(QUESTION, [picture])).strip().split("\n")
        full = told[0].lines if told else lines
        usage = talk.cache.usage()
        kept_fraction = usage.kept_bytes / usage.full_bytes
        told.append(Said(method, kept_fraction, lines, [line in full for line in lines]))
    return told


def markdown(told: list[Said]) -> str:
    """The README's table: what the full cache does not give is struck out."""
    cells = [
        "<br>".join(text if right else f"~~{text}~~" for text, right in zip(said.lines, said.right, strict=True))
        for said in told
    ]
    rows = ([said.title for said in told], ["---"] * len(told), cells)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def table(told: list[Said]) -> Table:
    """The same for a terminal."""
    shown = Table(title=f"{QUESTION} (demo-scene --kind receipt --seed {RECEIPT_SEED})")
    texts = []
    for said in told:
        shown.add_column(said.title, ratio=1)
        styled = (Text(text, "" if right else "red") for text, right in zip(said.lines, said.right, strict=True))
        texts.append(Text("\n").join(styled))
    shown.add_row(*texts)
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
