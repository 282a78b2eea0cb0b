"""`ftrun validate` and `ftrun preflight`: the climb without the training."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ftrun.checks.catalogue import load_checks
from ftrun.checks.check import Check
from ftrun.checks.report import Report
from ftrun.checks.stages import STAGE_NAMES, AtRecipe
from ftrun.runner.preflight import Ascent, ascend, report_mistakes
from ftrun.schemas.document import read_document
from ftrun.schemas.errors import RecipeError
from ftrun.schemas.pipeline import is_pipeline, load_pipeline

DONE, INVALID, NOT_READY = 0, 2, 3


def validate_recipes(
    recipes: Sequence[Path], *, sets: Sequence[str], ignore: Mapping[str, str], format: str, fix: bool = False
) -> int:
    """Check the text of recipes and pipelines, print what was found, and return the exit code. With `fix`,
    patches of findings are written first, and what is left is told."""
    checks = load_checks(upto="recipe")

    def look(path: Path) -> list[Ascent]:
        if is_pipeline(path):
            return _look_at_stages(path, checks, sets, ignore)
        return [ascend(path, checks=checks, sets=sets, ignore=ignore, upto=AtRecipe)]

    for path in recipes if fix else ():
        _apply_fixes(look(path), format)
    # All recipes once more: one may extend another that was fixed.
    reports = [ascent.report for path in recipes for ascent in look(path)]
    print_reports(reports, format)
    return max(exit_code(report) for report in reports)


def preflight_recipe(
    recipe: Path, *, upto: str, sets: Sequence[str], ignore: Mapping[str, str], format: str, fix: bool = False
) -> int:
    """Climb to the stage `upto`, print the checklist, and return the exit code. With `fix`, patches of
    findings are written, and where that changed the file it is climbed again. Of a pipeline every stage is
    climbed; one that takes the model of an earlier stage as far as its data."""
    from ftrun.runner.libraries import require_training, settle_libraries
    from ftrun.runner.printing.text import print_report

    if upto != "recipe":
        require_training("preflight")
        settle_libraries()
    reports, fixed = _climb_to(upto, recipe, sets, ignore, format if fix else None)
    if fixed:
        gc.collect()  # the model goes before it is loaded anew: two may not fit
        reports, _ = _climb_to(upto, recipe, sets, ignore, None)
    if format == "text":
        for report in reports:
            print_report(report)
    else:
        print_reports(reports, format)
    return max(exit_code(report) for report in reports)


def _look_at_stages(
    path: Path, checks: Sequence[Check], sets: Sequence[str], ignore: Mapping[str, str]
) -> list[Ascent]:
    """Each stage of a pipeline at the recipe stage; the pipeline alone where it cannot be read."""
    from ftrun.runner.rehearsal import rehearse

    try:
        pipeline = load_pipeline(path, sets)
    except RecipeError as error:
        return [Ascent(report_mistakes(path, error, checks), None)]
    return list(rehearse(pipeline, checks=checks, ignore=ignore))


def _climb_to(
    upto: str, recipe: Path, sets: Sequence[str], ignore: Mapping[str, str], fix: str | None
) -> tuple[list[Report], bool]:
    """The report of the recipe, or of each stage of a pipeline. With `fix`, the format of the report, patches
    of findings are written; whether that changed a file is the second value."""
    import tempfile

    from ftrun.runner.libraries import silence_bars
    from ftrun.runner.printing.text import make_console

    err = make_console(stderr=True)

    def announce(stage: str) -> None:
        err.print(f"checking the {stage} …", style="dim")
        if stage.startswith("data"):
            silence_bars()

    last = next(stage for stage, name in STAGE_NAMES.items() if name == upto)
    with tempfile.TemporaryDirectory(prefix="ftrun-") as folder:
        if is_pipeline(recipe):
            return _climb_stages(last, recipe, sets, ignore, fix, Path(folder), announce)
        ascent = ascend(
            recipe,
            checks=load_checks(upto),
            folder=lambda file: Path(folder),
            sets=sets,
            ignore=ignore,
            upto=last,
            needed=last,
            announce=announce,
        )
        return [ascent.report], fix is not None and _apply_fixes([ascent], fix)


def _climb_stages(
    upto: type[AtRecipe],
    path: Path,
    sets: Sequence[str],
    ignore: Mapping[str, str],
    fix: str | None,
    scratch: Path,
    announce: Callable[[str], None],
) -> tuple[list[Report], bool]:
    from ftrun.runner.rehearsal import rehearse

    checks = load_checks(STAGE_NAMES[upto])
    try:
        pipeline = load_pipeline(path, sets)
    except RecipeError as error:
        return [report_mistakes(path, error, checks)], False
    ascents = rehearse(pipeline, checks=checks, scratch=scratch, ignore=ignore, upto=upto, announce=announce)
    # What a stage's fix needs is kept, and its model is not.
    kept = [Ascent(one.report, one.at and _foot(one.at)) for one in ascents]
    return [one.report for one in kept], fix is not None and _apply_fixes(kept, fix)


def _foot(at: AtRecipe) -> AtRecipe:
    return AtRecipe(at.recipe, at.file, at.heads)


def _apply_fixes(ascents: Sequence[Ascent], format: str) -> bool:
    """Whether a recipe's file changed. What was fixed is told where it is in the way of no machine."""
    from ftrun.runner.fix import fix_recipe

    fixed = False
    for ascent in ascents:
        if ascent.at is None:
            continue
        file = ascent.at.file
        if fixed:  # stages may share a recipe, and an earlier one have changed it
            file = replace(file, documents=(read_document(file.path), *file.documents[1:]))
        fixed |= fix_recipe(ascent.report, file, out=sys.stdout if format == "text" else sys.stderr)
    return fixed


def exit_code(report: Report) -> int:
    """0 where training may start, 2 where the file is no recipe, 3 where checks found errors."""
    if report.ok:
        return DONE
    return INVALID if report.method is None else NOT_READY


def print_reports(reports: Sequence[Report], format: str) -> None:
    """Print what was found in each recipe, for people or for machines."""
    if format == "text":
        from ftrun.runner.printing.text import print_findings

        print_findings(reports)
        return
    from ftrun.runner.printing import machine

    formats = {"json": machine.format_json, "sarif": machine.format_sarif, "github": machine.format_github}
    text = formats[format](reports)
    if text:
        print(text)
