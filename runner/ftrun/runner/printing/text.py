"""The report as a checklist that a person reads: one line a check, and what was found in full.

Lines are made first and printed last: rich colours them on a terminal and is not even imported for a pipe,
where starting it would cost more than validating a recipe.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftrun.checks.finding import Finding, Severity
from ftrun.checks.report import Report, Result

if TYPE_CHECKING:
    from rich.console import Console

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
    "GUARD": "While training",
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


ASCII = str.maketrans({"÷": "/", "×": "x", "−": "-", "…": "..."})
"""What a terminal shows that has ASCII alone."""


@dataclass(frozen=True)
class Line:
    """A line: how far it is indented, and its parts, each with rich's name of its style."""

    indent: int
    parts: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        """The line without its styles."""
        return " " * self.indent + "".join(text for text, _ in self.parts)


def make_console(*, stderr: bool = False) -> Console:
    """A console that colours only on a terminal, honours NO_COLOR, and leaves lines whole in a pipe."""
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False, emoji=False, markup=False)
    if not console.is_terminal:
        console.soft_wrap = True
    return console


def has_blocks() -> bool:
    """Whether the encoding of stdout has the blocks that plots are drawn of."""
    try:
        "▁█×".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def format_clock(seconds: float) -> str:
    """A duration to the second: `5:12`, `1:04:33`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def print_report(report: Report) -> None:
    """Print the whole checklist: every check with its verdict, facts under their headings, findings in full."""
    _print_lines([*_checklist(report), _verdict(report)])


def print_findings(reports: Iterable[Report]) -> None:
    """Print only what was found, as `validate` shows it, in the order of the file, and a verdict each."""
    for report in reports:
        found = sorted(report.findings, key=lambda one: (one.where.file or "", one.where.line or 0))
        _print_lines([*(line for finding in found for line in _finding_lines(finding)), _verdict(report)])


def _print_lines(lines: Iterable[Line]) -> None:
    if not sys.stdout.isatty():
        sys.stdout.writelines(f"{line.text}\n" for line in lines)
        return
    from rich.padding import Padding
    from rich.text import Text

    console = make_console()
    for line in lines:
        console.print(Padding(Text.assemble(*line.parts), (0, 0, 0, line.indent), expand=False))


def _checklist(report: Report) -> Iterator[Line]:
    by_heading: dict[str, list[Result]] = {heading: [] for heading in dict.fromkeys(GROUPS.values())}
    for result in report.results:
        if report.method is None or report.method in result.check.methods:
            by_heading.setdefault(GROUPS.get(result.check.group, result.check.group), []).append(result)
    for heading, results in by_heading.items():
        shown = _folded(results)
        facts = [text for group, text in report.facts if group == heading]
        if shown or facts:
            yield Line(0, ((heading, "bold"),))
        for text in facts:
            yield Line(2, ((text, "dim"),))
        for result in shown:
            if result.verdict in ("passed", "found"):
                yield from _result_lines(result)
        yield from _skipped_lines([one for one in shown if one.verdict == "skipped"])
        yield from _idle_lines([one for one in shown if one.verdict == "not_applicable"])


def _folded(results: Sequence[Result]) -> Sequence[Result]:
    """Without the recipe-file checks that passed: a file that reads well is no news, a dozen times over."""
    return [one for one in results if one.check.group != "REC" or one.verdict == "found"]


def _result_lines(result: Result) -> Iterator[Line]:
    if result.verdict == "found":
        for finding in result.findings:
            yield from _finding_lines(finding)
        return
    mark, style = MARKS[result.verdict]
    yield Line(2, ((mark, style), (f" {result.check.id} ", "dim"), (result.check.title, "")))


def _skipped_lines(results: Sequence[Result]) -> Iterator[Line]:
    """One line for all checks that were skipped for the same reason."""
    for reason in dict.fromkeys(one.reason for one in results):
        ids = ", ".join(one.check.id for one in results if one.reason == reason)
        yield Line(2, ((f"{MARKS['skipped'][0]} not checked, {reason}: {ids}", "dim"),))


def _idle_lines(results: Sequence[Result]) -> Iterator[Line]:
    """One line for all checks that have nothing to judge in this recipe, by reason."""
    reasons = dict.fromkeys(one.reason for one in results)
    parts = [
        f"{', '.join(one.check.id for one in results if one.reason == reason)} ({reason})"
        for reason in reasons
    ]
    if parts:
        yield Line(2, ((f"{MARKS['not_applicable'][0]} nothing to judge: {', '.join(parts)}", "dim"),))


def _finding_lines(finding: Finding) -> Iterator[Line]:
    mark, style = MARKS["ignored" if finding.ignored else finding.severity or "error"]
    yield Line(
        2, ((mark, style), (f" {finding.id} ", "dim"), (finding.message, style if mark == "✗" else ""))
    )
    where = str(finding.where)
    if where:
        yield Line(4, ((f"at {where}", "dim"),))
    for text in finding.evidence:
        yield Line(4, ((text, "dim"),))
    yield Line(4, (("fix: ", "cyan"), (finding.fix, "")))
    if finding.ignored:
        yield Line(4, ((f"ignored: {finding.ignored}", "dim"),))


def _verdict(report: Report) -> Line:
    """Ready, or how many findings there are, and how long it took."""
    counts: dict[Severity, int] = {"error": 0, "warning": 0, "info": 0}
    for finding in report.findings:
        if finding.ignored is None:
            counts[finding.severity or "error"] += 1
    names = [
        f"{count} {severity}{'s' if count > 1 and severity != 'info' else ''}"
        for severity, count in counts.items()
        if count
    ]
    return Line(
        0,
        (
            ("✓ ", "green") if report.ok else ("✗ ", "bold red"),
            (report.title, "bold"),
            (": ready, " if report.ok else ": not ready, ", ""),
            (", ".join(names) or "nothing found", ""),
            (f" ({report.stage} stage, {sum(report.seconds.values()):.2f} s)", "dim"),
        ),
    )
