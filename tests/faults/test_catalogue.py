"""The catalogue of faults is whole, its figures hold their goals, and the page shows them."""

from __future__ import annotations

import re
from pathlib import Path

from tests.faults.catalogue import load_plantings, load_unplanted
from tests.faults.figures import describe, expect, measure

from ftrun.checks.catalogue import load_checks

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "faults.md"
PLANTINGS, UNPLANTED = load_plantings(), load_unplanted()
OURS = "ours"


def test_figures_hold_their_goals() -> None:
    every = expect(PLANTINGS)
    reported = [one for one in every if one.planting.fault.source != OURS]
    # Ours are also those that no check can tell from what is meant, since they are planted before it is known.
    for tellings, recall in ((every, 0.89), (reported, 0.95)):
        figures = measure(tellings)
        assert figures.recall.value >= recall
        assert figures.first.value >= 0.85
        assert figures.before_weights.value >= 0.75


def test_the_page_shows_the_figures_and_every_fault() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name, share in describe(measure(expect(PLANTINGS))).items():
        assert f"| {name} | {share} |" in page, "run `python benchmarks/faults.py`"
    shown = set(re.findall(r"^\| ([A-Z]\d{3}) \|", page, re.MULTILINE))
    assert shown == {one.fault.id for one in PLANTINGS} | {one.fault.id for one in UNPLANTED}


def test_a_fault_is_planted_or_not() -> None:
    planted = {one.fault.id for one in PLANTINGS}
    unplanted = [one.fault.id for one in UNPLANTED]
    assert len(unplanted) == len(set(unplanted))
    assert not planted & set(unplanted)
    names = [(one.module, one.name) for one in PLANTINGS]
    assert len(names) == len(set(names))


def test_checks_that_are_to_tell_exist() -> None:
    known = {one.id for one in load_checks()}
    assert {id for one in PLANTINGS for id in one.told} <= known


def test_tests_that_show_a_prevention_exist() -> None:
    for one in UNPLANTED:
        if one.shown_by:
            file, _, name = one.shown_by.partition("::")
            assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), one.shown_by
        else:
            assert one.reason != "prevented", f"{one.fault.id} has no test"
