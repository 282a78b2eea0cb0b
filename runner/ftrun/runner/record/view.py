"""Drift and verdict, for people and as data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ftrun.runner.record.comparison import Comparison, Gap
from ftrun.runner.record.drift import Difference, Rung
from ftrun.runner.record.source import Recorded

EFFECTS = {"changes": "changes them", "may": "may change them", "cannot": "cannot"}
STYLES = {"changes": "bold red", "may": "yellow", "cannot": "dim"}
NAMED = 3  # differences that cannot matter are named one by one up to this many; the JSON has them all
SHOWN = 28  # characters of a value in the table; the JSON has it whole


def print_drift(out: Console, name: str, drift: Sequence[Rung]) -> None:
    """The table of drift, and a line that sums it up."""
    table = Table(title=f"{name}, then and now", title_justify="left", box=None, pad_edge=False)
    for heading in ("rung", "", "what", "then", "now", "the bits"):
        table.add_column(heading, overflow="fold")
    for rung in drift:
        if not rung.differences:
            table.add_row(rung.name, rung.verdict, style="dim" if rung.verdict == "unknown" else "")
        for number, (what, then, now, one) in enumerate(_rows(rung)):
            first = (rung.name, rung.verdict) if number == 0 else ("", "")
            effect = f"{EFFECTS[one.effect]}: {one.why}"
            table.add_row(*first, what, _short(then), _short(now), effect, style=STYLES[one.effect])
    out.print(table)
    matters = [rung.name for rung in drift if rung.matters]
    out.print(
        f"the bits may be others: {', '.join(matters)}"
        if matters
        else "nothing has changed that the bits depend on"
    )


def _rows(rung: Rung) -> Iterator[tuple[str, str, str, Difference]]:
    """What is otherwise, then and now, what matters first. Of what cannot change the bits for one and the same reason
    the first few stand for all: another environment has a hundred such packages."""
    alike: dict[str, list[Difference]] = {}
    for one in rung.differences:
        if one.matters:
            yield one.what, one.then, one.now, one
        else:
            alike.setdefault(one.why, []).append(one)
    for found in alike.values():
        for one in found if len(found) <= NAMED else ():
            yield one.what, one.then, one.now, one
        if len(found) > NAMED:
            named = ", ".join(one.what for one in found[:NAMED])
            yield f"{named} and {len(found) - NAMED:,} more", "", "", found[0]


def as_data(drift: Sequence[Rung]) -> list[dict[str, Any]]:
    """The rungs as plain data."""
    return [asdict(rung) for rung in drift]


def summarise(
    recorded: Recorded, folder: Path, compared: Comparison, drift: Sequence[Rung], failure: str
) -> dict[str, Any]:
    """`reproduction.json`."""
    return {
        "schema": 1,
        "run": recorded.name,
        "run_id": recorded.run_id,
        "folder": str(folder),
        "verdict": compared.verdict,
        "values": compared.values,
        "last_step": compared.last_step,
        "first": _gap(compared.first),
        "largest": _gap(compared.largest),
        "first_weights": compared.first_weights,
        "weights": compared.weights,
        "tolerance": compared.tolerance,
        "left_out": list(compared.left_out),
        "failure": failure,
        "explained_by": [one.what for one in _causes(drift)],
        "drift": as_data(drift),
    }


def print_verdict(out: Console, result: Mapping[str, Any]) -> None:
    """What came of it, in a few lines."""
    for line in _verdict_lines(result):
        out.print(line, style="green" if result["verdict"] == "exact" else "yellow")


def _verdict_lines(result: Mapping[str, Any]) -> Iterator[str]:
    name, weights = result["run"], result["weights"]
    compared = f"{result['values']:,} numbers of {result['last_step']:,} steps"
    if result["failure"]:
        yield f"the repetition ended early: {result['failure']}"
    if result["verdict"] == "exact":
        what = (
            f"{compared} and the weights" if weights == "same" else f"{compared}; weights were not compared"
        )
        yield f"✓ {name} is repeated, equal bit for bit: {what}"
        return
    mark = "≈" if result["verdict"] == "close" else "✗"
    equal = "differs" if result["verdict"] == "drifted" else "is close, and not equal"
    yield f"{mark} {name} {equal}: {compared}, weights {weights}"
    if (step := result["first_weights"]) is not None:
        place = "before the first step" if step == 0 else f"at the checkpoint of step {step}"
        yield f"the weights first differ {place}"
    if (first := result["first"]) is not None:
        largest = result["largest"]
        yield f"the first number that differs: step {first['step']}, {_describe(first)}"
        yield (
            f"the largest difference: step {largest['step']}, {_describe(largest)}; "
            f"up to {result['tolerance']:g} counts as close"
        )
    causes = result["explained_by"]
    yield (
        f"what may explain it: {', '.join(causes)}"
        if causes
        else "nothing that is recorded explains it: what is computed here does not repeat itself bit for bit "
        "(docs/reproduce.md)"
    )


def _describe(gap: Mapping[str, Any]) -> str:
    share = "" if gap["share"] is None else f", {gap['share']:.2g} of its largest value"
    return f"{gap['metric']} {_number(gap['then'])} → {_number(gap['now'])}{share}"


def _number(value: float | str | None) -> str:
    return "not there" if value is None else str(value)


def _causes(drift: Sequence[Rung]) -> list[Difference]:
    """What the first rung that matters says, and all after it: an earlier one causes a later one."""
    return [one for rung in drift for one in rung.differences if one.matters]


def _gap(gap: Gap | None) -> dict[str, Any] | None:
    if gap is None:
        return None
    numbers = {key: _plain(value) for key, value in (("then", gap.then), ("now", gap.now))}
    return {"step": gap.step, "metric": gap.metric, **numbers, "share": _plain(gap.share, missing=None)}


def _plain(value: float | None, missing: Any = "") -> Any:
    """A number that JSON has; NaN and infinities as text, or as `missing`."""
    if value is None or math.isfinite(value):
        return value
    return str(value) if missing == "" else missing


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
