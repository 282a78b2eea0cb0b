"""`ftrun validate` and `ftrun preflight`: the climb without the training."""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ftrun.checks.catalogue import load_checks
from ftrun.checks.report import Report
from ftrun.checks.stages import STAGE_NAMES, AtRecipe
from ftrun.runner.preflight import Ascent, ascend

DONE, INVALID, NOT_READY = 0, 2, 3


def validate_recipes(
    recipes: Sequence[Path], *, sets: Sequence[str], ignore: Mapping[str, str], format: str, fix: bool = False
) -> int:
    """Check the text of recipes, print what was found, and return the exit code. With `fix`, patches of
    findings are written first, and what is left is told."""
    checks = load_checks(upto="recipe")

    def look(path: Path) -> Ascent:
        return ascend(path, checks=checks, sets=sets, ignore=ignore, upto=AtRecipe)

    for path in recipes if fix else ():
        _apply_fixes(look(path), format)
    # All recipes once more: one may extend another that was fixed.
    reports = [look(path).report for path in recipes]
    print_reports(reports, format)
    return max(exit_code(report) for report in reports)


def preflight_recipe(
    recipe: Path, *, upto: str, sets: Sequence[str], ignore: Mapping[str, str], format: str, fix: bool = False
) -> int:
    """Climb to the stage `upto`, print the checklist, and return the exit code. With `fix`, patches of
    findings are written, and where that changed the file it is climbed again."""
    from ftrun.runner.libraries import require_training, settle_libraries
    from ftrun.runner.printing.text import print_report

    if upto != "recipe":
        require_training("preflight")
        settle_libraries()
    ascent = _climb_to(upto, recipe, sets, ignore)
    if fix and _apply_fixes(ascent, format):
        del ascent
        gc.collect()  # the model goes before it is loaded anew: two may not fit
        ascent = _climb_to(upto, recipe, sets, ignore)
    if format == "text":
        print_report(ascent.report)
    else:
        print_reports([ascent.report], format)
    return exit_code(ascent.report)


def _climb_to(upto: str, recipe: Path, sets: Sequence[str], ignore: Mapping[str, str]) -> Ascent:
    import tempfile

    from ftrun.runner.libraries import silence_bars
    from ftrun.runner.printing.text import make_console

    err = make_console(stderr=True)

    def announce(stage: str) -> None:
        err.print(f"checking the {stage} …", style="dim")
        if stage == "data":
            silence_bars()

    last = next(stage for stage, name in STAGE_NAMES.items() if name == upto)
    with tempfile.TemporaryDirectory(prefix="ftrun-") as folder:
        return ascend(
            recipe,
            checks=load_checks(upto),
            folder=lambda file: Path(folder),
            sets=sets,
            ignore=ignore,
            upto=last,
            needed=last,
            announce=announce,
        )


def _apply_fixes(ascent: Ascent, format: str) -> bool:
    """Whether the recipe's file changed. What was fixed is told where it is in the way of no machine."""
    from ftrun.runner.fix import fix_recipe

    if ascent.at is None:
        return False
    return fix_recipe(ascent.report, ascent.at.file, out=sys.stdout if format == "text" else sys.stderr)


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
