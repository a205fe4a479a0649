"""How far a transcription is from the right text."""

from __future__ import annotations


def edit_distance(right: str, said: str) -> int:
    """The least number of characters to insert, delete or replace that turn one text into the other (Levenshtein)."""
    distances = list(range(len(said) + 1))
    for row, wanted in enumerate(right, start=1):
        diagonal, distances[0] = distances[0], row
        for column, given in enumerate(said, start=1):
            diagonal, distances[column] = (
                distances[column],
                min(distances[column] + 1, distances[column - 1] + 1, diagonal + (wanted != given)),
            )
    return distances[-1]
