"""How answers are judged."""

from __future__ import annotations

import pytest

from prefixkv.evaluation.answers import is_exact, is_relaxed, rouge_l


@pytest.mark.parametrize(
    ("answer", "right", "exact", "relaxed"),
    [
        ("red", "red", True, True),
        (" red\n", "red", True, True),
        ("Red", "red", False, True),
        ("red.", "red", False, False),
        ("104", "100", False, True),
        ("105", "100", False, True),
        ("94.9", "100", False, False),
        ("-104", "-100", False, True),
        ("0", "0.0", False, True),
        ("0.01", "0", False, False),
        ("52%", "50%", False, True),
        ("0.5", "50%", False, True),
        ("nan", "nan", True, True),
        ("inf", "5", False, False),
        ("c", "a<AND>b<OR>c", True, True),
        ("it is b and a", "a<AND>b<OR>c", True, True),
        ("it is a", "a<AND>b<OR>c", False, False),
    ],
)
def test_matches(answer: str, right: str, exact: bool, relaxed: bool) -> None:
    assert (is_exact(answer, right), is_relaxed(answer, right)) == (exact, relaxed)


def test_rouge_l_by_hand() -> None:
    """Longest common subsequence `the cat on mat`: 4 of 5 words given, 4 of 6 words wanted."""
    precision, recall = 4 / 5, 4 / 6
    expected = 2 * precision * recall / (precision + recall)
    assert rouge_l("the cat on a mat", "the cat sat on the mat") == pytest.approx(expected)
    assert rouge_l("?!", "?!") == 1.0
    assert rouge_l("", "the cat") == 0.0
