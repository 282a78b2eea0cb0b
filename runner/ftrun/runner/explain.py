"""`ftrun checks`, `ftrun explain` and `ftrun schema`: the documentation that is code."""

from __future__ import annotations

import difflib
import json
from importlib.resources import files

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ftrun.checks.catalogue import load_checks, load_guards
from ftrun.checks.check import Check
from ftrun.checks.stages import STAGE_NAMES
from ftrun.checks.training import Training
from ftrun.runner.printing.text import GROUPS, make_console
from ftrun.schemas.errors import FtrunError


def list_checks(format: str) -> None:
    """Print every check: its id, severity, stage and title."""
    checks = (*load_checks(), *load_guards())
    if format == "json":
        print(json.dumps([describe_check(check) for check in checks], indent=2, ensure_ascii=False))
        return
    console = make_console()
    for heading in dict.fromkeys([*GROUPS.values(), *(GROUPS.get(one.group, one.group) for one in checks)]):
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
        for check in checks:
            if GROUPS.get(check.group, check.group) == heading:
                table.add_row(
                    check.id, Text(check.severity, "dim"), Text(name_stage(check), "dim"), check.title
                )
        if table.row_count:
            console.print(Text(heading, style="bold"))
            console.print(Padding(table, (0, 0, 0, 2)))
    console.print(Text("ftrun explain ID tells one in full.", style="dim"))


def describe_check(check: Check) -> dict[str, object]:
    """A check as data."""
    return {
        "id": check.id,
        "name": check.name,
        "severity": check.severity,
        "stage": name_stage(check),
        "methods": list(check.methods),
        "title": check.title,
        "documentation": check.documentation,
    }


def name_stage(check: Check) -> str:
    """The stage at which a check can tell its fault; `training` for guards."""
    if issubclass(check.stage, Training):
        return "training"
    for stage, name in STAGE_NAMES.items():
        if check.stage is stage:
            return name
    return check.stage.__name__.removesuffix("Failed").lower()


def explain_check(id: str) -> int:
    """Print one check in full. Raises FtrunError, with the nearest ids, where there is none."""
    checks = {check.id: check for check in (*load_checks(), *load_guards())}
    by_name = {check.name: check for check in checks.values()}
    check = checks.get(id.upper()) or by_name.get(id.lower())
    if check is None:
        near = difflib.get_close_matches(id.upper(), checks, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "`ftrun checks` lists them"
        raise FtrunError(f"there is no check {id}; {hint}")
    console = make_console()
    console.print(Text(f"{check.id} {check.name}", style="bold"))
    console.print(
        Text(
            f"{check.severity}, told at the {name_stage(check)} stage, for {', '.join(check.methods)}", "dim"
        )
    )
    console.print()
    for line in check.documentation.splitlines():
        heading, colon, rest = line.partition(":")
        if colon and heading in ("Symptom", "Cause", "Fix", "Prevention", "Source"):
            console.print(Text(f"{heading}:", "cyan").append(rest, "default"))
        else:
            console.print(Text(line))
    return 0


def print_schema() -> None:
    """Print the published JSON Schema."""
    print(files("ftrun.schemas").joinpath("recipe.schema.json").read_text(encoding="utf-8"), end="")
