"""The climb: each stage is built once, by the code that trains, and only if something waits for it."""

from __future__ import annotations

import gc
import importlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
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
    Process,
    RecipeFailed,
    widen,
)
from ftrun.runner.data.files import read_head
from ftrun.runner.launching.sharding import find_obstacle
from ftrun.runner.ranks import Apart, count_ranks, gather
from ftrun.schemas.errors import RecipeError, first_line
from ftrun.schemas.load import RecipeFile, load_recipe
from ftrun.schemas.resolve import resolve

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
        try:
            built = after(_build(stage, file, at, folder, recorded))
        except Exception as error:  # the build boundary: whatever a stage raises is one finding
            if stage not in FAILURES or at is None:
                raise
            if isinstance(error, Apart):  # the process that failed tells why
                new = skipped(checks, FAILURES[stage], method=method, reason=first_line(error))
            else:
                failed: Any = widen(at, FAILURES[stage], error=error)
                new = run_checks(checks, failed, method=method, ignore=ignored)
            # Where no check reports the failure, the reason of the skipped ones has to.
            detail = "" if any(result.findings for result in new) else f": {first_line(error)}"
            stopped = f"since the {name} cannot be built{detail}"
            new += skipped(checks, stage, method=method, reason=stopped)
        else:
            at = built
            new = passed(checks, FAILURES[stage], method=method) if stage in FAILURES else []
            new += run_checks(checks, at, method=method, ignore=ignored)
        new, stopped = agree(new, stopped, name)
        results += new
        seconds |= _since(began, name)
        began = time.perf_counter()
        if stopped is None and any(blocks(finding, fail_on) for result in new for finding in result.findings):
            stopped = f"since the {name} stage found errors"
    reached = STAGE_NAMES[type(at)] if at is not None else "recipe"
    facts = tuple(_describe(at)) if isinstance(at, AtEnvironment) else ()
    return Ascent(Report(str(file.path), method, reached, results, fail_on, seconds, facts), at)


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


def _build(
    stage: type[AtRecipe],
    file: RecipeFile,
    at: AtRecipe | None,
    folder: Callable[[RecipeFile], Path] | None,
    recorded: Iterable[Mapping[str, Any]] | None,
) -> AtRecipe:
    if stage is AtRecipe:
        return AtRecipe(resolve(file.recipe), file, _look_at_sources(file))
    assert at is not None
    if stage is AtEnvironment:
        from ftrun.runner.determinism import settle_determinism
        from ftrun.runner.environment import inspect_machine

        machine = inspect_machine(Path(at.recipe.output))
        if machine.torch_error is None:
            settle_determinism(
                at.recipe.deterministic,
                on_gpu=bool(machine.devices),
                compiled=at.recipe.training["torch_compile"],
            )
        return cast(AtRecipe, widen(at, AtEnvironment, machine=machine))
    method = importlib.import_module(f"ftrun.runner.methods.{at.recipe.method}")
    if stage is AtData:
        from ftrun.runner.tuning.choices import tune

        with _garbage_left():
            built = method.build_data(at)
            tuned = tune(built, recorded)
        if count_ranks() == 1:
            return tuned
        # A device may have less room in one process than in another.
        return tune(built, [asdict(one) for one in gather(tuned.choices, "the choices")[0]])
    if stage is AtModel:
        assert folder is not None, "a trainer needs a folder to write to"
        return _with_processes(method.build_model(at, folder(file)))
    from ftrun.runner.step import take_step

    return take_step(cast(AtModel, at))


def _with_processes(at: AtModel) -> AtModel:
    """With what each process of the run is about to train, where there are several."""
    if count_ranks() == 1:
        return at
    from ftrun.runner.data.digest import digest_rows
    from ftrun.runner.record.digests import digest_trainable

    own = Process(digest_trainable(at.model), digest_rows(at.train))
    return replace(at, processes=tuple(gather(own, "the model as it was built")))


@contextmanager
def _garbage_left() -> Iterator[None]:
    """Pause Python's search for cycles of garbage, which would look at every row again and again.

    Rows hold no cycles, and with 50,000 of them the search takes a fifth of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _look_at_sources(file: RecipeFile) -> tuple[Any, ...]:
    data = file.recipe.data
    sources = [(f"data.train.{i}", one) for i, one in enumerate(data.train)]
    if isinstance(data.eval, list):
        sources += [(f"data.eval.{i}", one) for i, one in enumerate(data.eval)]
    return tuple(read_head(source, key, file.folder) for key, source in sources)
