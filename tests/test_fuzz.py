"""A seeded sample of bad input: mutated recipes, rows and command lines end in findings, never in a traceback."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"

pytestmark = pytest.mark.skipif(
    not (BENCHMARKS / "fuzz.py").is_file(), reason="the checkout has no benchmarks"
)


@pytest.mark.parametrize(("kind", "cases"), [("recipes", 250), ("data", 50), ("commands", 60)])
def test_bad_input_is_told(kind: str, cases: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    fuzz: Any = importlib.import_module("fuzz")
    assert fuzz.run(kind, range(cases), seed=1000) == {}
