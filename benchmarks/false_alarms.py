"""How often checks find something in recipes that are right: every healthy world of tests/healthy, with three seeds.

    python benchmarks/false_alarms.py [--seeds 1 2 3] [--only NAME ...] [--jobs 2] [--no-page]

Prints each alarm as it comes, then the rates, and writes docs/false-alarms.md. An alarm is an error or a warning
that no `preflight.ignore` of the recipe declares. FTRUN_TOKENIZERS names a folder of real tokenizers, which add
a world each (tests/healthy/tokenizers.py).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import product
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.update({"HF_HUB_OFFLINE": "1", "FTRUN_PLUGINS": ""})
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.healthy.worlds import find_worlds  # noqa: E402

from ftrun.checks.catalogue import load_checks  # noqa: E402
from ftrun.checks.finding import Finding  # noqa: E402
from ftrun.runner.libraries import settle_libraries, silence_bars  # noqa: E402
from ftrun.runner.preflight import climb  # noqa: E402

PAGE = ROOT / "docs" / "false-alarms.md"
PACKAGES = ("torch", "transformers", "trl", "peft", "datasets")


@dataclass(frozen=True)
class Outcome:
    """What all checks said of one world with one seed."""

    world: str
    seed: int
    method: str
    stage: str
    judged: int
    """Checks that had something to judge and did."""

    alarms: tuple[Finding, ...]
    broken: tuple[str, ...]
    """Checks that failed themselves, or were never reached."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", nargs="+", default=[], help="worlds whose names hold one of these")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--no-page", action="store_true", help="print, and leave the page as it is")
    asked = parser.parse_args()
    names = [one.name for one in find_worlds()]
    if asked.only:
        names = [name for name in names if any(part in name for part in asked.only)]
    began = time.perf_counter()
    outcomes = []
    # Spawned, so that a process has nothing of another's; each is replaced before what libraries keep adds up.
    with get_context("spawn").Pool(asked.jobs, prepare, maxtasksperchild=100) as pool:
        for outcome in pool.imap(judge, product(names, asked.seeds)):
            outcomes.append(outcome)
            for line in tell(outcome):
                print(line, flush=True)
    print(f"\n{summarise(outcomes)}\n{time.perf_counter() - began:.0f} s")
    if not asked.no_page:
        PAGE.write_text(write_page(outcomes, asked.seeds), encoding="utf-8")
        print(f"written: {PAGE}")


def prepare() -> None:
    """Make a process quiet before it judges."""
    warnings.filterwarnings("ignore")
    settle_libraries()
    silence_bars()


def judge(task: tuple[str, int]) -> Outcome:
    """Climb to the last stage with every check, in the world of a name and a seed."""
    name, seed = task
    one = next(one for one in find_worlds() if one.name == name)
    with tempfile.TemporaryDirectory() as folder:
        world = one.build(Path(folder), seed)
        report = climb(world.write(), checks=load_checks(), sets=world.sets, after=world.apply)
    return Outcome(
        one.name,
        seed,
        report.method or "",
        report.stage,
        sum(result.verdict in ("passed", "found") for result in report.results),
        tuple(found for found in report.findings if found.severity != "info" and found.ignored is None),
        tuple(f"{left.check.id}: {left.reason}" for left in report.results if left.verdict == "skipped"),
    )


def tell(outcome: Outcome) -> Iterator[str]:
    name = f"{outcome.world} seed {outcome.seed}"
    for finding in outcome.alarms:
        yield f"{name}: {finding.id} {finding.severity}: {finding.message}"
    if outcome.stage != "step" or outcome.broken:
        yield f"{name}: ended at the {outcome.stage} stage; skipped {', '.join(outcome.broken[:3])}"


def summarise(outcomes: Sequence[Outcome]) -> str:
    found = Counter(finding.severity for outcome in outcomes for finding in outcome.alarms)
    judged = sum(outcome.judged for outcome in outcomes)
    pairs = len({(o.world, o.seed, f.id) for o in outcomes for f in o.alarms if f.severity == "warning"})
    worlds = len({outcome.world for outcome in outcomes})
    whole = sum(outcome.stage == "step" and not outcome.broken for outcome in outcomes)
    return (
        f"{worlds} recipes, {len(outcomes)} climbs, {whole} of them to the last stage with every check; "
        f"{found['error']} errors, {found['warning']} warnings: a warning in {pairs} of {judged:,} verdicts of a "
        f"check on a recipe ({pairs / judged:.2%})."
    )


def write_page(outcomes: Sequence[Outcome], seeds: Sequence[int]) -> str:
    """The page: the rates, the alarms by check, and a line for each world."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    lines = [
        "# How often do checks cry wolf?",
        "",
        f"Written by `python benchmarks/false_alarms.py` with seeds {', '.join(map(str, seeds))} on {versions}. The",
        "recipes are those of [tests/healthy](../tests/healthy): unusual and right. The seed draws the rows, their",
        "order and the weights of the model.",
        "",
        summarise(outcomes),
        "",
        *_alarm_lines(outcomes),
        "| recipe | method | errors | warnings |",
        "|---|---|---|---|",
    ]
    for name in dict.fromkeys(outcome.world for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.world == name]
        found = Counter(finding.severity for outcome in own for finding in outcome.alarms)
        lines.append(f"| {name} | {own[0].method} | {found['error']} | {found['warning']} |")
    return "\n".join(lines) + "\n"


def _alarm_lines(outcomes: Sequence[Outcome]) -> Iterator[str]:
    alarms = Counter(
        (finding.id, finding.severity, outcome.world) for outcome in outcomes for finding in outcome.alarms
    )
    if not alarms:
        return
    yield from ("| check | severity | recipe | climbs |", "|---|---|---|---|")
    yield from (
        f"| {id} | {severity} | {world} | {count} |"
        for (id, severity, world), count in sorted(alarms.items())
    )
    yield ""


if __name__ == "__main__":
    main()
