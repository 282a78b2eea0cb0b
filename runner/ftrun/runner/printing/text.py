"""The report as a checklist that a person reads: one line a check, and what was found in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from ftrun.checks.finding import Finding
from ftrun.checks.report import RANK, Report, Result

GROUPS: Mapping[str, str] = {
    "REC": "Recipe",
    "ENV": "Environment",
    "DATA": "Data",
    "MODEL": "Model",
    "TRAIN": "Training",
    "SFT": "Method",
    "RM": "Method",
    "DPO": "Method",
    "PPO": "Method",
}
"""The headings of the checklist, by the letters of a check's id."""

MARKS: Mapping[str, tuple[str, str]] = {
    "passed": ("✓", "green"),
    "error": ("✗", "bold red"),
    "warning": ("!", "yellow"),
    "info": ("i", "cyan"),
    "ignored": ("~", "dim"),
    "skipped": ("-", "dim"),
    "not_applicable": ("·", "dim"),
}


def make_console(*, stderr: bool = False) -> Console:
    """A console that colours only on a terminal, honours NO_COLOR, and never cuts lines of a pipe."""
    console = Console(stderr=stderr, highlight=False, soft_wrap=False, emoji=False)
    if not console.is_terminal:
        console.width = 200
    return console


def print_report(report: Report, console: Console) -> None:
    """The whole checklist: every check with its verdict, facts under their headings, findings in full."""
    by_group: dict[str, list[Result]] = {heading: [] for heading in dict.fromkeys(GROUPS.values())}
    for result in report.results:
        by_group.setdefault(GROUPS.get(result.check.group, result.check.group), []).append(result)
    for heading, results in by_group.items():
        shown = [one for one in results if one.verdict != "not_applicable"]
        lines = [text for group, text in report.facts if group == heading]
        if not shown and not lines:
            continue
        console.print(Text(heading, style="bold"))
        for line in lines:
            console.print(_indented(Text(line, style="dim"), 2))
        for result in _folded(shown):
            _print_result(result, console)
    print_verdict(report, console)


def _indented(text: Text, width: int) -> Padding:
    return Padding(text, (0, 0, 0, width), expand=False)


def _folded(results: Sequence[Result]) -> Sequence[Result]:
    """Without the recipe-file checks that passed: a file that reads well is one fact, not a dozen."""
    if results and results[0].check.group == "REC" and all(one.verdict == "passed" for one in results):
        return ()
    return [one for one in results if one.check.group != "REC" or one.verdict == "found"]


def print_findings(report: Report, console: Console) -> None:
    """Only what was found, as `validate` shows it, in the order of the file."""
    for result in report.results:
        for finding in result.findings:
            _print_finding(finding, console)
    print_verdict(report, console)


def _print_result(result: Result, console: Console) -> None:
    if result.verdict == "found":
        for finding in result.findings:
            _print_finding(finding, console)
        return
    mark, style = MARKS[result.verdict]
    line = Text(mark, style).append(f" {result.check.id} ", "dim")
    line.append(result.check.title, "default" if result.verdict == "passed" else "dim")
    if result.reason:
        line.append(f": {result.reason}", "dim")
    console.print(_indented(line, 2))


def _print_finding(finding: Finding, console: Console) -> None:
    mark, style = MARKS["ignored" if finding.ignored else finding.severity or "error"]
    line = (
        Text(mark, style)
        .append(f" {finding.id} ", "dim")
        .append(finding.message, style if mark == "✗" else "default")
    )
    console.print(_indented(line, 2))
    where = str(finding.where)
    rows = [Text(f"at {where}", "dim")] if where else []
    rows += [Text(text, "dim") for text in finding.evidence]
    rows += [Text("fix: ", "cyan").append(finding.fix, "default")]
    if finding.ignored:
        rows.append(Text(f"ignored: {finding.ignored}", "dim"))
    for row in rows:
        console.print(_indented(row, 4))


def print_verdict(report: Report, console: Console) -> None:
    """One line: ready, or how many findings block, and how long it took."""
    counts = {severity: 0 for severity in RANK}
    for finding in report.findings:
        if finding.ignored is None:
            counts[finding.severity or "error"] += 1
    names = [
        f"{count} {severity}{'s' if count > 1 and severity != 'info' else ''}"
        for severity, count in counts.items()
        if count
    ]
    seconds = sum(report.seconds.values())
    line = Text("✓ " if report.ok else "✗ ", "green" if report.ok else "bold red")
    line.append(report.recipe, "bold").append(": ")
    line.append("ready" if report.ok else "not ready")
    line.append(f", {', '.join(reversed(names))}" if names else ", nothing found")
    line.append(f" ({report.stage} stage, {seconds:.2f} s)", "dim")
    console.print(line)
