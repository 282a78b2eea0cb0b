"""What guards found and what was done, on the terminal, in the run folder and in MLflow."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ftrun.checks.finding import Finding
from ftrun.runner.ranks import is_main
from ftrun.runner.tracking.run import TrackedRun

EVENTS_FILE = "events.jsonl"


@dataclass(frozen=True)
class Events:
    """The events of a run: a line on the terminal, a line of `events.jsonl`, which
    MLflow gets too, a tag and a metric; and a table, where the guard has one to show."""

    run: TrackedRun
    folder: Path
    console: Console

    def count(self) -> int:
        """How many there have been, before a resumption too."""
        file = self.folder / EVENTS_FILE
        return len(file.read_text(encoding="utf-8").splitlines()) if file.exists() else 0

    def tell(self, finding: Finding, done: str, step: int, *, alone: bool = False) -> None:
        """Say and record what a guard found at a step, and what was done: in the main process, for all of them, and
        where this one is `alone` with it, here."""
        if not is_main() and not alone:
            return
        self.console.print(
            f"{finding.id} at step {step}: {finding.message} {done[:1].upper()}{done[1:]}.", style="yellow"
        )
        entry = {
            "time": time.time(),
            "step": step,
            "guard": finding.id,
            "message": finding.message,
            "done": done,
            "fix": finding.fix,
            "evidence": list(finding.evidence),
        }
        if finding.table:
            entry["table"] = f"guards/{finding.id}-step-{step}.json"
            self.run.log_table(finding.table, f"guards/{finding.id}-step-{step}.json")
        file = self.folder / EVENTS_FILE
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self.run.set_tags({"ftrun.guards": f"{self.count()} events, the last {finding.id} at step {step}"})
        self.run.log(step, {f"guards/{finding.id}": 1.0})
        self.run.log_artifact(file)
