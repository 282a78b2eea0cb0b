"""The end of a run that trained to its last step: the model saved, asked about held-out rows, and what it said told."""

from __future__ import annotations

import json
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console

from ftrun.checks.stages import AtModel
from ftrun.runner.launching.sharding import is_divided
from ftrun.runner.ranks import alone, share
from ftrun.runner.record import ladder
from ftrun.runner.tracking.run import TrackedRun


def conclude(at: AtModel, run: TrackedRun, folder: Path, out: Console) -> None:
    """Save the model, which may be in parts in all processes; the main one asks it, and says what came of it."""
    at.trainer.save_model(str(folder / "model"))
    share(lambda: _conclude_in_main(at, run, folder, out))


def _conclude_in_main(at: AtModel, run: TrackedRun, folder: Path, out: Console) -> None:
    model = folder / "model"
    # A pickle of the arguments, which no one should have to load, with any token in clear.
    (model / "training_args.bin").unlink(missing_ok=True)
    ladder.conclude_ladder(run, folder)
    method = import_module(f"ftrun.runner.methods.{at.recipe.method}")
    step = at.trainer.state.global_step
    began = time.monotonic()
    metrics: dict[str, float] = {}
    table: list[dict[str, Any]] = []
    if not is_divided(at.trainer.model):
        with alone():
            metrics, table = method.ask(at)
    elif at.eval is not None:
        out.print(
            "the model is in parts, so it is not asked about the rows held out; `ftrun chat` asks the saved one"
        )
    if metrics:
        run.log(step, metrics)
        if table:
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in table)
            run.log_text("".join(lines), "answers.jsonl")
            run.log_table(table, "answers.json")
        took = f" ({time.monotonic() - began:.1f} s)"
        for name, value in metrics.items():
            out.print(_tell(name, value, len(table)) + took)
            took = ""
    out.print(f"the model is in {model}")


def _tell(name: str, value: float, rows: int) -> str:
    """A figure of the held-out rows for people: shares in percent, of `rows` where answers were generated."""
    shown = name.removeprefix("eval/").replace("_", " ")
    if name.endswith(("match", "generated", "generated_before")):
        return f"{shown}: {value:.1%} of {rows} held-out rows"
    return f"{shown}: {value:.1%}" if name.endswith("accuracy") else f"{shown}: {value:.4g}"
