"""Plant what makes runs diverge, beside clean twins, and write `docs/divergences.md`.

    python benchmarks/divergences.py [WORD …]

With words, only what has them in its name is planted, and its line printed. One process, one thread, no GPU; about an
hour on two cores.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.update({"HF_HUB_OFFLINE": "1", "FTRUN_PLUGINS": "", "OMP_NUM_THREADS": "1"})

from ftrun.runner.libraries import settle_libraries  # noqa: E402

settle_libraries()

from tests.divergences.planted import STEP, STEPS, Divergence, list_divergences, make_world  # noqa: E402
from tests.divergences.runs import Outcome, run_planted, run_twin  # noqa: E402
from tests.divergences.unforeseen import list_unforeseen  # noqa: E402

PAGE = ROOT / "docs" / "divergences.md"
NEAR = 0.05


@dataclass(frozen=True)
class Row:
    """A divergence, its run and its twins."""

    planted: Divergence
    outcome: Outcome
    clean: Outcome
    """The recipe without the fault."""

    twin: Outcome
    """The same, that goes back at the same steps with the same remedies."""

    @property
    def told(self) -> str:
        """The guard that told it first."""
        return str(self.outcome.events[0]["guard"]) if self.outcome.events else ""

    @property
    def late(self) -> int | None:
        """Steps from the event to its detection."""
        return int(self.outcome.events[0]["step"]) - STEP if self.outcome.events else None

    @property
    def is_told(self) -> bool:
        """Whether a guard of the cause told it; or none did, where it does no harm."""
        return self.told in self.planted.told if self.planted.told else not self.told

    @property
    def is_near(self) -> bool:
        """Whether the run ended as its twin."""
        return away(self.outcome, self.twin) <= NEAR


def away(outcome: Outcome, twin: Outcome) -> float:
    """How far the loss of a run is from its twin's, as a share of this; infinite where the run did not end."""
    difference = abs(outcome.loss - twin.loss) / max(abs(twin.loss), 1e-12)
    return difference if math.isfinite(difference) else math.inf


def main(words: Sequence[str]) -> None:
    rows: list[Row] = []
    clean: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, planted in enumerate([*list_divergences(), *list_unforeseen()]):
            if words and not any(word in planted.what for word in words):
                continue
            began = time.monotonic()
            rows.append(try_one(planted, clean, Path(folder) / str(number)))
            print(f"{tell(rows[-1])}  {time.monotonic() - began:.0f} s", flush=True)
    undisturbed = {id(row.clean): row.clean for row in rows if not row.planted.in_recipe}.values()
    crying = [outcome.events for outcome in undisturbed if outcome.events]
    print(f"clean runs: {len(undisturbed)}, of which {len(crying)} with an event {crying}")
    if not words:
        PAGE.write_text(write_page(rows, len(undisturbed), len(crying)), encoding="utf-8")


def try_one(planted: Divergence, clean: dict[str, Outcome], folder: Path) -> Row:
    """Run it and its twins, in a folder of their own. Clean runs of the same recipe are made once."""
    made = {}
    for name in ("fault", "clean", "twin"):
        made[name] = make_world(planted.make, folder / name)
        made[name].recipe["tracking"] = {
            "uri": f"sqlite:///{folder.parent}/mlflow.db"
        }  # a store takes seconds to make
        planted.change(made[name])
    key = f"{planted.make.__name__} {made['clean'].recipe['training']}"
    outcome = run_planted(made["fault"], planted.plant)
    if key not in clean:
        clean[key] = run_planted(made["clean"])
    as_twin = f"{key} {[(alarm.step, alarm.finding.since) for alarm in outcome.alarms]}"
    if outcome.alarms and as_twin not in clean:
        clean[as_twin] = run_twin(made["twin"], outcome)
    return Row(planted, outcome, clean[key], clean[as_twin] if outcome.alarms else clean[key])


def tell(row: Row) -> str:
    """A line of the table."""
    planted, outcome = row.planted, row.outcome
    late = "" if row.late is None or (planted.within is None and not planted.transient) else f"{row.late:+d}"
    done = outcome.events[-1]["done"].split(",")[0] if outcome.events else "nothing"
    if outcome.error:
        done = "stopped" if "stopped the run" in outcome.error else outcome.error[:60]
    told = row.told or "none"
    compared = (outcome,) if planted.in_recipe else (outcome, row.twin, row.clean)
    shown = ["–" if math.isnan(one.loss) else f"{one.loss:.4g}" for one in compared]
    losses = " | ".join([*shown, "–", "–"][:3])
    verdict = "as it should" if row.is_told and (row.is_near or not planted.transient) else "**missed**"
    return f"| {planted.what} | {told} | {late} | {done} | {losses} | {verdict} |"


def write_page(rows: Sequence[Row], twins: int, crying: int) -> str:
    """The page of the documentation."""
    passing = [row for row in rows if row.planted.transient]
    near = [row for row in passing if row.is_near]
    told = [row for row in rows if row.is_told]
    steps = [row for row in passing if row.planted.within is not None and row.planted.told]
    prompt = [row for row in steps if row.late is not None and abs(row.late) <= 1]
    names = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl"))
    return HEAD.format(
        rows=len(rows),
        unforeseen=len(list_unforeseen()),
        step=STEP,
        steps=STEPS,
        told=_share(told, rows),
        near=_share(near, passing),
        same=_share([row for row in passing if away(row.outcome, row.clean) <= NEAR], passing),
        prompt=_share(prompt, steps),
        crying=f"{crying} of {twins}",
        versions=names,
        lines="\n".join(tell(row) for row in rows),
    )


def _share(part: Sequence[Row], whole: Sequence[Row]) -> str:
    return f"{len(part)} of {len(whole)} ({len(part) / len(whole):.0%})"


HEAD = """\
# Do runs that diverge recover?

{rows} things that go wrong are planted in small runs of the four methods, at step {step} of {steps}, with a checkpoint
every ten steps and the guards as they are by default. Beside each runs the same recipe without the fault: its **clean**
run, and its **twin**, which goes back at the same steps and with the same remedies. `python benchmarks/divergences.py`
writes this page; some of it is held in `tests/runner/test_guards_optimisation.py`.

| | |
|---|---|
| told by a guard of its cause, or silent where it does no harm | {told} |
| end within 5 % of the twin's loss, of those that happen once | {near} |
| … of the clean run's, in which nothing happened | {same} |
| told at the step or the next one, of what a step shows | {prompt} |
| clean runs in which a guard says something | {crying} |

The loss is the mean of the last five steps; of PPO it is the score. Steps later are counted from the event; memory that
runs out is told by the steps made. Measured with {versions} on a CPU.

{unforeseen} of them, from "a batch is noise" on, are a second set that was written down before anybody looked at the
guards or at the first. What lasts, such as a rate that is too high for good, ends near its slowed twin and not near its
clean run.

| what goes wrong | first told by | steps later | in the end | loss | twin | clean | |
|---|---|---|---|---|---|---|---|
{lines}
"""


if __name__ == "__main__":
    main(sys.argv[1:])
