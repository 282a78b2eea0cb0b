"""Every recipe that ships is valid; the first one learns its task; recipes on real data run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftrun.checks.catalogue import load_checks
from ftrun.checks.stages import AtRecipe
from ftrun.runner.pipeline import run_pipeline
from ftrun.runner.preflight import ascend
from ftrun.runner.printing.text import make_console
from ftrun.runner.rehearsal import rehearse
from ftrun.runner.run import run_recipe
from ftrun.runner.tracking.journal import read_journal
from ftrun.schemas.pipeline import is_pipeline, load_pipeline

ROOT = Path(__file__).parents[1]
SHIPPED = sorted((ROOT / "recipes").glob("*.yaml"))
REAL = ROOT.parent / "shared" / "data"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipe_is_valid(path: Path) -> None:
    checks = load_checks("recipe")
    if is_pipeline(path):
        reports = [ascent.report for ascent in rehearse(load_pipeline(path), checks=checks)]
    else:
        reports = [ascend(path, checks=checks, upto=AtRecipe).report]
    assert all(report.ok and not report.findings for report in reports)


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


def test_reward_recipe_learns_which_answer_is_right(tmp_path: Path) -> None:
    code, report = run(ROOT / "recipes" / "reward.yaml", tmp_path)
    assert code == 0
    assert not report["findings"]
    (answers,) = tmp_path.glob("*/ftrun/answers.jsonl")
    pairs = [json.loads(line) for line in answers.read_text().splitlines()]
    assert len(pairs) == 150
    assert sum(pair["chosen_score"] > pair["rejected_score"] for pair in pairs) / len(pairs) >= 0.9


def run_stages(name: str, folder: Path) -> dict[str, float]:
    """Run a shipped pipeline; what its last stage said of held-out rows."""
    console = make_console()
    path = ROOT / "recipes" / f"{name}.yaml"
    assert run_pipeline(path, sets=[f"output={folder}"], ignore={}, out=console, err=console) == 0
    last = load_pipeline(path).stages[-1].name
    (journal,) = folder.glob(f"*/{last}/metrics.jsonl")
    return dict(read_journal(journal)[-1].metrics)


@pytest.mark.slow
def test_the_better_answer_is_generated_more_often_after_the_second_stage(tmp_path: Path) -> None:
    figures = run_stages("sft-dpo", tmp_path)
    assert figures["eval/preference_accuracy"] >= 0.9
    assert figures["eval/chosen_generated"] > figures["eval/chosen_generated_before"] + 0.2


@pytest.mark.slow
def test_the_reward_rises_and_the_answers_stay_whole(tmp_path: Path) -> None:
    figures = run_stages("rlhf", tmp_path)
    assert figures["eval/score_after"] > figures["eval/score_before"] + 1
    assert figures["eval/kl"] < 5
    assert figures["eval/response_unique_words_after"] > 0.7
    assert figures["eval/response_length_after"] > 0.8 * figures["eval/response_length_before"]


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data is not here")
def test_ppo_recipe_on_real_prompts_accounts_for_every_row(tmp_path: Path) -> None:
    code, report = run(ROOT / "tests" / "recipes" / "preferences-ppo.yaml", tmp_path)
    assert code == 0
    (train,) = report["rows"]
    assert train["read"] == 299 == train["kept"] + train["too_long"] + train["unreadable"]
    assert train["kept"] > 100 and train["too_long"] > 0


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data is not here")
@pytest.mark.slow
def test_reward_recipe_on_real_data_leaves_out_what_is_too_long(tmp_path: Path) -> None:
    code, report = run(ROOT / "tests" / "recipes" / "preferences-reward.yaml", tmp_path)
    assert code == 0
    assert {one["id"] for one in report["findings"] if one["severity"] != "info"} == {"DATA044"}
    train, held = report["rows"]
    assert train["read"] == 299 == train["kept"] + train["too_long"] + train["held_out"]
    assert held["read"] == held["kept"] + held["too_long"] == train["held_out"]


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data is not here")
@pytest.mark.parametrize(
    ("name", "rows"),
    [("gsm8k", 7473), pytest.param("alpaca", 999, marks=pytest.mark.slow), ("preferences-dpo", 299)],
)
def test_recipe_on_real_data_runs(name: str, rows: int, tmp_path: Path) -> None:
    code, report = run(ROOT / "tests" / "recipes" / f"{name}.yaml", tmp_path)
    assert code == 0
    assert report["rows"][0]["read"] == rows
    errors = [one for one in report["findings"] if one["severity"] == "error" and not one["ignored"]]
    assert not errors
