"""The climb: each stage is built once, by the code that trains, and only if something waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from ftrun.checks.check import Check
from ftrun.checks.engine import passed, run_checks, skipped
from ftrun.checks.finding import Finding
from ftrun.checks.report import Report, Result, blocks
from ftrun.checks.stages import (
    STAGE_NAMES,
    STAGES,
    AtData,
    AtEnvironment,
    AtModel,
    AtRecipe,
    AtStep,
    DataFailed,
    ModelFailed,
    RecipeFailed,
    widen,
)
from ftrun.runner.building import build_stage
from ftrun.runner.launching.sharding import find_obstacle
from ftrun.runner.ranks import Apart, gather
from ftrun.schemas.errors import RecipeError, first_line
from ftrun.schemas.load import RecipeFile, load_recipe

FAILURES: Mapping[type, type] = {AtRecipe: RecipeFailed, AtData: DataFailed, AtModel: ModelFailed}
"""What stands in for a stage that cannot be built."""

After = Callable[[Any], Any]


@dataclass(frozen=True)
class Ascent:
    """Where a climb ended."""

    report: Report
    at: AtRecipe | None
    """The last stage that was built; None where the recipe could not be read."""


def climb(path: str | Path, *, checks: Iterable[Check], **options: Any) -> Report:
    """Check a recipe without training. What is built on the way is thrown away; options as for `ascend`."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="ftrun-") as folder:
        return ascend(path, checks=checks, folder=lambda file: Path(folder), **options).report


def ascend(
    path: str | Path,
    *,
    checks: Iterable[Check],
    folder: Callable[[RecipeFile], Path] | None = None,
    sets: Sequence[str] = (),
    ignore: Mapping[str, str] | None = None,
    upto: type[AtRecipe] = STAGES[-1],
    needed: type[AtRecipe] = AtRecipe,
    after: After = lambda stage: stage,
    announce: Callable[[str], None] = lambda stage: None,
) -> Ascent:
    """Build stage after stage up to `upto` and run the checks that wait for each.

    A stage is built where a check waits for it or for a later one, or where it is not beyond `needed`. A
    finding that blocks, or a stage that cannot be built, ends the climb: later checks are skipped with that
    reason. `folder` is called when the trainer is built and returns where it writes; below that stage none is
    needed. `after` is given each stage as built and returns the one to go on with: tests plant faults there.
    `announce` is told the name of each stage before it is built.
    """
    checks = list(checks)
    began = time.perf_counter()
    try:
        file = load_recipe(path, sets)
    except RecipeError as error:
        report = report_mistakes(path, error, checks)
        return Ascent(replace(report, seconds=_since(began, "recipe")), None)
    return ascend_file(
        file,
        checks=checks,
        folder=folder,
        ignore=ignore,
        upto=upto,
        needed=needed,
        after=after,
        announce=announce,
        began=began,
    )


def report_mistakes(path: str | Path, error: RecipeError, checks: Iterable[Check]) -> Report:
    """The report of a file that is no recipe: a finding for each mistake."""
    told = run_checks(checks, RecipeFailed(error.mistakes), method=None, ignore={})
    return Report(str(path), None, "recipe", told)


def ascend_file(
    file: RecipeFile,
    *,
    checks: Sequence[Check],
    folder: Callable[[RecipeFile], Path] | None = None,
    ignore: Mapping[str, str] | None = None,
    upto: type[AtRecipe] = STAGES[-1],
    needed: type[AtRecipe] = AtRecipe,
    after: After = lambda stage: stage,
    announce: Callable[[str], None] = lambda stage: None,
    began: float | None = None,
    recorded: Iterable[Mapping[str, Any]] | None = None,
) -> Ascent:
    """`ascend` for a recipe that was read; `began` is when that was begun, by `time.perf_counter`. `recorded` are the
    choices of the run that is repeated or gone on with."""
    began = time.perf_counter() if began is None else began
    method = file.recipe.method
    ignored = {**file.recipe.preflight.ignore, **(ignore or {})}
    fail_on = file.recipe.preflight.fail_on
    judge = partial(run_checks, checks, method=method, ignore=ignored)

    def build(stage: type[AtRecipe], at: AtRecipe | None) -> AtRecipe:
        return cast(AtRecipe, after(build_stage(stage, file, at, folder, recorded)))

    results: list[Result] = []
    seconds: dict[str, float] = {}
    at: AtRecipe | None = None
    stopped: str | None = None
    for stage in STAGES[: STAGES.index(upto) + 1]:
        name = STAGE_NAMES[stage]
        if stopped is None and not _is_wanted(stage, checks, upto, needed):
            stopped = "since nothing waits for it"
        if stopped is None and stage is AtStep:
            stopped = find_obstacle(cast(AtModel, at).trainer)
        if stopped is not None:
            results += skipped(checks, stage, method=method, reason=stopped)
            if stage in FAILURES:
                results += skipped(checks, FAILURES[stage], method=method, reason=stopped)
            continue
        announce(name)
        at, new, stopped = _enter(stage, at, build, judge, checks, method)
        new, stopped = agree(new, stopped, name)
        results += new
        seconds |= _since(began, name)
        began = time.perf_counter()
        if stopped is None and any(blocks(finding, fail_on) for result in new for finding in result.findings):
            stopped = f"since the {name} stage found errors"
    reached = STAGE_NAMES[type(at)] if at is not None else "recipe"
    facts = tuple(_describe(at)) if isinstance(at, AtEnvironment) else ()
    return Ascent(Report(str(file.path), method, reached, results, fail_on, seconds, facts), at)


def _enter(
    stage: type[AtRecipe],
    at: AtRecipe | None,
    build: Callable[[type[AtRecipe], AtRecipe | None], AtRecipe],
    judge: Callable[[Any], list[Result]],
    checks: Sequence[Check],
    method: str,
) -> tuple[AtRecipe | None, list[Result], str | None]:
    """Build a stage and judge it: the last stage that stands, what was said, and why the climb ends here."""
    try:
        built = build(stage, at)
    except Exception as error:  # the build boundary: whatever a stage raises is one finding
        if stage not in FAILURES or at is None:
            raise
        if isinstance(error, Apart):  # the process that failed tells why
            new = skipped(checks, FAILURES[stage], method=method, reason=first_line(error))
        else:
            new = judge(widen(at, FAILURES[stage], error=error))
        # Where no check reports the failure, the reason of the skipped ones has to.
        detail = "" if any(result.findings for result in new) else f": {first_line(error)}"
        stopped = f"since the {STAGE_NAMES[stage]} cannot be built{detail}"
        return at, new + skipped(checks, stage, method=method, reason=stopped), stopped
    new = passed(checks, FAILURES[stage], method=method) if stage in FAILURES else []
    return built, new + judge(built), None


def agree(results: list[Result], stopped: str | None, stage: str) -> tuple[list[Result], str | None]:
    """What the checks of a stage said in all processes of the run, the same in each of them, and why the climb ends.

    Of a check the findings of the first process that has any count, with its number unless that is 0: processes look
    at other rows, and what they all find they tell in other figures.
    """
    own, place = ({one.check.id: one.findings for one in results}, stopped), f"the end of the {stage} stage"
    try:
        told = gather(own, place)
    except Apart:  # this process failed while others were still building; that has now ended their stage
        told = gather(own, place)
    if len(told) == 1:
        return results, stopped
    agreed = []
    for result in results:
        found = [
            (rank, one[result.check.id]) for rank, (one, _) in enumerate(told) if one.get(result.check.id)
        ]
        if found:
            result = replace(result, verdict="found", findings=_signed(*found[0]), reason=None)
        agreed.append(result)
    reasons = [(rank, why) for rank, (_, why) in enumerate(told) if why is not None]
    if not reasons:
        return agreed, None
    rank, why = reasons[0]
    return agreed, f"{why} in process {rank}" if rank else why


def _signed(rank: int, findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    return (
        tuple(replace(one, message=f"Process {rank}: {one.message}") for one in findings)
        if rank
        else findings
    )


def _describe(at: AtEnvironment) -> Iterator[tuple[str, str]]:
    from ftrun.runner.facts import describe

    return describe(at)


def _since(began: float, name: str) -> dict[str, float]:
    return {name: time.perf_counter() - began}


def _is_wanted(
    stage: type[AtRecipe], checks: Iterable[Check], upto: type[AtRecipe], needed: type[AtRecipe]
) -> bool:
    here = STAGES.index(stage)
    if here <= STAGES.index(needed):
        return True
    later = STAGES[here : STAGES.index(upto) + 1]
    waiting = {*later, *(FAILURES[one] for one in later if one in FAILURES)}
    return any(one.stage in waiting for one in checks)
