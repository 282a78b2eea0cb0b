"""The line that a run writes while it trains."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftrun.checks.testing import sft_full
from ftrun.runner.printing.text import make_console
from ftrun.runner.progress import Pace
from ftrun.runner.run import run_recipe


def test_the_pace_is_that_of_the_last_steps_and_of_this_process() -> None:
    pace = Pace(first=100, began=0.0, step=100, tokens=0.0, now=0.0)
    assert pace.rate(110, 50_000.0, 4.0) == "12.5k tokens/s"
    assert pace.rate(120, None, 6.0) == "5 steps/s"
    # 20 steps in 6 seconds, and 80 are left.
    assert pace.left(120, 200, 6.0) == "0:24"
    assert pace.left(101, 100_000, 1.0) == "27:44:59"


def test_a_run_tells_loss_pace_memory_and_what_guards_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = sft_full(tmp_path)
    world.recipe["training"] |= {"max_steps": 4, "logging_steps": 2}
    events = tmp_path / "runs" / "healthy-1" / "events.jsonl"
    console = make_console()
    assert run_recipe(world.write(), sets=(), ignore={}, out=console, err=console) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert not events.exists()
    for line, step in zip(lines[:2], ("step 2/4  loss ", "step 4/4  loss "), strict=True):
        assert line.startswith(step)
        assert " tokens/s  " in line and " GiB  " in line and line.endswith(" left")
