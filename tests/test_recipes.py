"""Every recipe that ships is valid; the first one learns its task; recipes on real data run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftrun.checks.catalogue import load_checks
from ftrun.checks.stages import AtRecipe
from ftrun.runner.preflight import ascend
from ftrun.runner.printing.text import make_console
from ftrun.runner.run import run_recipe
from ftrun.runner.tracking.journal import read_journal

ROOT = Path(__file__).parents[1]
SHIPPED = sorted((ROOT / "recipes").glob("*.yaml"))
REAL = ROOT.parent / "shared" / "data"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipe_is_valid(path: Path) -> None:
    report = ascend(path, checks=load_checks("recipe"), upto=AtRecipe).report
    assert report.ok and not report.findings


def run(path: Path, folder: Path, *sets: str) -> tuple[int, Any]:
    console = make_console()
    code = run_recipe(path, sets=[f"output={folder}", *sets], ignore={}, out=console, err=console)
    (report,) = folder.glob("*/preflight.json")
    return code, json.loads(report.read_text())


def test_first_recipe_learns_its_task(tmp_path: Path) -> None:
    code, report = run(ROOT / "recipes" / "sft.yaml", tmp_path)
    assert code == 0
    assert not report["findings"]
    (answers,) = tmp_path.glob("*/ftrun/answers.jsonl")
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    assert len(rows) == 200
    assert sum(row["exact"] for row in rows) / len(rows) >= 0.9


def test_dpo_recipe_learns_its_preferences(tmp_path: Path) -> None:
    code, report = run(ROOT / "recipes" / "dpo.yaml", tmp_path)
    assert code == 0
    assert not report["findings"]
    (journal,) = tmp_path.glob("*/metrics.jsonl")
    asked = [entry.metrics for entry in read_journal(journal) if "eval/preference_accuracy" in entry.metrics]
    assert asked[-1]["eval/preference_accuracy"] >= 0.9


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data is not here")
@pytest.mark.parametrize(("name", "rows"), [("gsm8k", 7473), ("alpaca", 999), ("preferences-dpo", 299)])
def test_recipe_on_real_data_runs(name: str, rows: int, tmp_path: Path) -> None:
    code, report = run(ROOT / "tests" / "recipes" / f"{name}.yaml", tmp_path)
    assert code == 0
    assert report["rows"][0]["read"] == rows
    assert not [finding for finding in report["findings"] if finding["severity"] == "error"]
