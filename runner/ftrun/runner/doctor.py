"""`ftrun doctor`: the machine alone, without a recipe."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from ftrun.checks.catalogue import load_checks
from ftrun.checks.stages import AtEnvironment
from ftrun.runner.data.storage import describe_cache
from ftrun.runner.libraries import settle_libraries
from ftrun.runner.preflight import ascend
from ftrun.runner.printing.text import print_report
from ftrun.runner.validate import exit_code, print_reports

NEUTRAL = """\
name: doctor
method: sft
model: {path: tiny}
data: {train: [{path: rows.jsonl}]}
training: {warmup_steps: 0.1}
"""
"""A recipe that asks nothing of the machine."""


def _tell_cache() -> str:
    found = describe_cache()
    if found is None:
        return "tokenised rows are not kept, since FTRUN_CACHE is off"
    if not found.entries:
        return f"tokenised rows are kept in {found.folder}, which holds none"
    return f"tokenised rows of {found.entries:,} data sets are kept in {found.folder} ({found.bytes / 1e6:,.1f} MB)"


def examine(format: str) -> int:
    """Print what there is and what is wrong with it; the exit code is 3 where something is."""
    settle_libraries()
    checks = [check for check in load_checks("environment") if check.group == "ENV"]
    with tempfile.TemporaryDirectory(prefix="ftrun-") as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(NEUTRAL, encoding="utf-8")
        ascent = ascend(
            path, checks=checks, folder=lambda file: Path(folder), upto=AtEnvironment, needed=AtEnvironment
        )
    facts = (*ascent.report.facts, ("Environment", _tell_cache()))
    report = replace(ascent.report, recipe="this machine", facts=facts)
    if format == "text":
        print_report(report)
    else:
        print_reports([report], format)
    return exit_code(report)
