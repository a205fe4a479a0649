"""The figures of an evaluation: the value that `results.json` holds, which a notebook shows as a table."""

from __future__ import annotations

from typing import Any

from prefixkv.html_table import html_table
from prefixkv.policy.budget import format_bytes

_HEADINGS = {
    "perplexity": "perplexity",
    "kl_nats": "KL, nats a token",
    "rouge_l": "ROUGE-L",
    "accuracy": "exact",
    "relaxed_accuracy": "relaxed",
}

LOWER_IS_BETTER = ("perplexity", "kl_nats")


class Figures(dict[str, Any]):
    """All cells with their metrics; an ordinary dictionary otherwise, see `prefixkv.evaluation.results.results`."""

    def _repr_html_(self) -> str:
        """Every cell that was measured, with the intervals of 95 % over the samples."""
        cells = [cell for cell in self["cells"] if not cell["shared_with_full"]]
        names = [name for name in _HEADINGS if any(name in cell["metrics"] for cell in cells)]
        rows = [
            [
                cell["method"],
                cell["budget"],
                f"{cell['kept_tokens_fraction']:.1%}",
                f"{cell['bits']:.3g}",
                f"{cell['bytes_fraction']:.1%}",
                format_bytes(cell["kept_bytes"]),
                *(_with_interval(cell["metrics"].get(name)) for name in names),
            ]
            for cell in cells
        ]
        headings = [
            "method",
            "budget",
            "tokens kept",
            "bits",
            "of the bytes",
            "bytes",
            *(_HEADINGS[name] for name in names),
        ]
        return html_table(f"{self['samples']} samples, [95 % interval]", headings, rows)


def _with_interval(metric: dict[str, float] | None) -> str:
    return "" if metric is None else f"{metric['value']:.4g} [{metric['low']:.4g}, {metric['high']:.4g}]"
