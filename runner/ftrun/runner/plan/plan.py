"""`ftrun plan`: what a run would do, before it does."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ftrun.checks.catalogue import load_checks, load_failures
from ftrun.checks.stages import STAGE_NAMES, AtRecipe
from ftrun.runner.plan.assembly import make_plan
from ftrun.runner.plan.outline import Plan
from ftrun.runner.preflight import Ascent, ascend, report_mistakes
from ftrun.runner.validate import exit_code, print_reports
from ftrun.schemas.errors import MissingExtra, RecipeError
from ftrun.schemas.pipeline import is_pipeline, load_pipeline


def plan_recipe(recipe: Path, *, upto: str, sets: Sequence[str], memory: int | None, format: str) -> int:
    """Print the plan of a recipe, or of each stage of a pipeline, and return the exit code: 0, or 2 where the
    file is no recipe. `memory` is that of the device to plan for, in bytes; None: that of this machine."""
    from ftrun.runner.libraries import require_training, settle_libraries

    last = next(stage for stage, name in STAGE_NAMES.items() if name == upto)
    missing: MissingExtra | None = None
    try:
        require_training("plan")
        settle_libraries()
    except MissingExtra as error:
        missing, last = error, AtRecipe
    plans: list[Plan] = []
    with tempfile.TemporaryDirectory(prefix="ftrun-") as folder:
        for ascent in _climb(recipe, last, sets, Path(folder)):
            if ascent.at is None:
                print_reports([ascent.report], format)
                return exit_code(ascent.report)
            plans.append(make_plan(ascent, Path(folder), memory=memory, missing=missing))
            del ascent  # its model goes before the next is loaded
    if format == "json":
        data = [plan.as_data() for plan in plans]
        print(json.dumps(data if len(data) > 1 else data[0], indent=2, ensure_ascii=False))
        return 0
    from ftrun.runner.plan.view import print_plans

    print_plans(plans)
    return 0


def _climb(recipe: Path, last: type[AtRecipe], sets: Sequence[str], folder: Path) -> Iterator[Ascent]:
    """The stages of the recipe, or of each recipe of a pipeline, up to `last`."""
    # Only what keeps a stage from being built is of interest here: a doubtful run has a plan too.
    checks = load_failures(STAGE_NAMES[last])

    def announce(stage: str) -> None:
        from ftrun.runner.libraries import silence_bars
        from ftrun.runner.printing.text import make_console

        if not stage.startswith("recipe"):
            make_console(stderr=True).print(f"building the {stage} …", style="dim")
        if stage.startswith("data"):
            silence_bars()

    options: dict[str, Any] = {"checks": checks, "upto": last, "announce": announce}
    if not is_pipeline(recipe):
        yield ascend(recipe, **options, folder=lambda _: folder, sets=sets, needed=last)
        return
    from ftrun.runner.rehearsal import rehearse

    try:
        pipeline = load_pipeline(recipe, sets)
    except RecipeError as error:
        yield Ascent(report_mistakes(recipe, error, load_checks("recipe")), None)
        return
    scratch = None if last is AtRecipe else folder
    yield from rehearse(pipeline, **options, scratch=scratch)
