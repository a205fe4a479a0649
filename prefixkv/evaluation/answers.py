"""How an answer is judged: exact match, relaxed match for numbers, ROUGE-L. No torch in here."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

RELAXED_SHARE = 0.05
"""ChartQA's tolerance (Masry et al. 2022): a number may be wrong by this share of the right one."""


def is_exact(answer: str, right: str) -> bool:
    """Whether the answer is one of the right ones, letter for letter, white space around it aside.

    Args:
        answer: the model's.
        right: the right one; several with `<OR>` between, as MM-Vet writes them. Where parts are joined by `<AND>`,
            each must occur in the answer, since no answer is spelt with that mark.
    """
    return any(_matches(answer.strip(), option) for option in right.split("<OR>"))


def is_relaxed(answer: str, right: str) -> bool:
    """ChartQA's relaxed match: numbers within 5 % of the right one, everything else exactly but for upper case."""
    return any(
        _close(answer.strip(), option.strip()) or _matches(answer.strip().lower(), option, ignore_case=True)
        for option in right.split("<OR>")
    )


def rouge_l(answer: str, reference: str) -> float:
    """ROUGE-L F-measure of an answer against a reference, 0 to 1; 1 where both are the same, even without words."""
    if answer == reference:
        return 1.0
    return float(_scorer().score(reference, answer)["rougeL"].fmeasure)


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"])


def _matches(answer: str, option: str, ignore_case: bool = False) -> bool:
    parts = [part.strip().lower() if ignore_case else part.strip() for part in option.split("<AND>")]
    return answer == parts[0] if len(parts) == 1 else all(part in answer for part in parts)


def _close(answer: str, right: str) -> bool:
    given, wanted = _number(answer), _number(right)
    if given is None or wanted is None:
        return False
    return given == wanted if wanted == 0 else abs(given - wanted) / abs(wanted) <= RELAXED_SHARE


def _number(text: str) -> float | None:
    """The number that the text is, a percentage as a share as ChartQA has it; None for other text."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
