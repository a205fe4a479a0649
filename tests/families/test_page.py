"""The page and the package say of every type what the results do."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from prefixkv.models.refused_types import ONLY_WINDOWS, REFUSED_KINDS, REFUSED_TYPES
from prefixkv.models.type_results import SOURCE, type_results
from tests.families import page

RESULTS = json.loads(page.RESULTS.read_text(encoding="utf-8"))
LEAST_SHARE = 0.85
"""Of the types that stock transformers runs in the same test and that no agreed kind of reason excludes."""


def test_page_and_package_say_what_the_results_do() -> None:
    assert page.block(RESULTS) in page.PAGE.read_text(encoding="utf-8"), "run: make families"
    assert json.loads(SOURCE.read_text(encoding="utf-8")) == page.listed(RESULTS)
    version, types = type_results()
    assert version == RESULTS["transformers"]
    assert types.keys() == RESULTS["types"].keys()


@pytest.mark.parametrize("pictures", [True, False])
def test_nearly_all_types_run_that_stock_runs(pictures: bool) -> None:
    found = [each for each in type_results()[1].values() if each.pictures is pictures]
    counts = Counter(each.outcome for each in found)
    assert counts["runs"] >= LEAST_SHARE * (len(found) - counts["stock fails"] - counts["refused"])
    reasons = {ONLY_WINDOWS, *REFUSED_TYPES.values(), *REFUSED_KINDS.values()}
    assert {each.reason for each in found if each.outcome == "refused"} <= reasons
    assert all(each.reason for each in found if each.outcome != "runs")
    assert not [each.reason for each in found if "\n" in each.reason]
