"""The rows that a preview shows, how their tokens are spelled, and the page that a run records."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ftrun.checks.stages import AtData
from ftrun.checks.testing import World, dpo_full, ppo_full, sft_full
from ftrun.runner.page import ENDS, write_page
from ftrun.runner.preflight import ascend
from ftrun.runner.preview import preview_recipe
from ftrun.runner.printing.text import make_console
from ftrun.runner.run import run_recipe
from ftrun.runner.samples import Sample, choose_samples, spell_row


def at_data(world: World) -> AtData:
    at = ascend(world.write(), checks=(), upto=AtData, needed=AtData).at
    assert isinstance(at, AtData)
    return at


def told(samples: list[Sample]) -> list[tuple[int | None, str, tuple[str, ...]]]:
    return [(one.row.where.row, one.split, one.reasons) for one in samples]


def spelled(sample: Sample, at: AtData) -> str:
    return "".join(token.text for token in spell_row(sample.row, at.tokenizer))


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_samples_stand_for_all_rows(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    world.rows[5] = {"prompt": "Why?\n", "completion": "No."}
    world.rows[9]["completion"] *= 3
    world.rows[11]["completion"] *= 5
    world.recipe["training"]["max_length"] = 48
    world.recipe["data"]["train"].append({"path": "more.jsonl"})
    write_rows(
        tmp_path / "more.jsonl", [{"prompt": "Which door is open?\n", "completion": "The third door is."}]
    )
    found = told(choose_samples(at_data(world), 1))
    assert [(row, split) for row, split, _ in found] == [
        (1, "train"),
        (1, "train"),
        (12, "train"),
        (6, "train"),
        (10, "train"),
    ]
    reasons = [" ".join(one) for _, _, one in found]
    assert reasons[0] == reasons[1] == "first of its source"
    assert reasons[2].startswith("longest loses ") and reasons[4].startswith("loses ")
    assert reasons[3] == "shortest"


def test_both_sides_of_a_pair_are_shown(tmp_path: Path) -> None:
    world = dpo_full(tmp_path)
    world.rows[7]["rejected"] *= 4
    at = at_data(world)
    sides = [(row, split) for row, split, reasons in told(choose_samples(at, 1)) if "longest" in reasons]
    assert sides == [(8, "train chosen"), (8, "train rejected")]


def test_prompts_are_shown_with_nothing_trained(tmp_path: Path) -> None:
    samples = choose_samples(at_data(ppo_full(tmp_path)), 2)
    assert len(samples) >= 3
    assert not any(sample.trained for sample in samples)


def test_tokens_are_spelled_with_signs_for_what_has_no_shape(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    world.rows = [{"prompt": "a\tb\n", "completion": "é 門\x1b[31m\u202e."}]
    at = at_data(world)
    (sample,) = choose_samples(at, 1)
    assert spelled(sample, at) == "a⇥b⏎é⁺·門⁺⁺⟨U+001B⟩[31m⟨U+202E⟩⁺⁺.<|im_end|>"
    tokens = spell_row(sample.row, at.tokenizer)
    assert [token.text for token in tokens if token.special] == ["<|im_end|>"]
    assert "".join(token.text for token in tokens if not token.trained) == "a⇥b⏎"


class Page(HTMLParser):
    """The texts of trained and of special tokens, and every tag and attribute."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.trained = ""
        self.feed(text.partition("</p>")[2])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.trained += data if self.open[-2:] == ["b", "i"] else ""


def test_page_holds_rows_and_runs_nothing_of_theirs(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    answer = "<script>alert('x')</script><img src=//x.org onerror=y> & </pre></b>"
    world.rows = [{"prompt": "Write HTML.\n", "completion": answer}]
    at = at_data(world)
    write_page(tmp_path / "page.html", "<healthy>", choose_samples(at, 1), at.tokenizer)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.trained.replace("·", " ") == f"{answer}<|im_end|>"
    assert page.tags == {"h2", "pre", "i", "b"} and page.attributes == {"dir", "class"}
    assert "default-src 'none'" in text and not re.search(
        r"src=|href=|url\(|@import", text.partition("</p>")[0]
    )


def test_page_is_small_and_tells_what_it_leaves_out(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    world.recipe["training"]["max_length"] = None
    world.rows[3]["completion"] *= 2000
    world.rows[0]["completion"] = "The key is sk-abcdefghijklmnop1234567890."
    at = at_data(world)
    samples = choose_samples(at, 1)
    write_page(tmp_path / "page.html", "rows", samples, at.tokenizer)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    longest = next(one for one in samples if "longest" in one.reasons)
    left = len(longest.row.ids) - 2 * ENDS
    assert f"{left:,} tokens are left out, {left:,} of them trained" in text
    assert len(text) < 60_000
    assert "1 more are left out" in text and "klmnop" not in Page(text).trained


@pytest.mark.parametrize("kept", [True, False])
def test_a_run_records_the_page_unless_told_not_to(kept: bool, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    world = sft_full(tmp_path)
    world.recipe["training"]["max_steps"] = 1
    world.recipe["training"]["warmup_steps"] = 0
    if not kept:
        world.recipe["tracking"] = {"preview": False}
    console = make_console()
    assert run_recipe(world.write(), sets=(), ignore={}, out=console, err=console) == 0
    client = MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    (run,) = client.search_runs([one.experiment_id for one in client.search_experiments()])
    uploaded = {Path(one.path).name for one in client.list_artifacts(run.info.run_id, "ftrun")}
    assert ("preview.html" in uploaded) == kept
    assert (tmp_path / "runs" / "healthy-1" / "preview.html").exists() == kept


def test_preview_writes_the_page(tmp_path: Path) -> None:
    target = tmp_path / "rows.html"
    assert preview_recipe(sft_full(tmp_path).write(), rows=1, sets=(), html=target) == 0
    assert "The·lamp·in·room·0·is·red." in Page(target.read_text(encoding="utf-8")).trained
