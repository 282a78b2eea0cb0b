"""`ftrun diff A B`: two recipes, two runs, or one of each, side by side."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from ftrun.runner.printing.text import Line, make_console
from ftrun.runner.story.difference import Difference, Divergence, Pair, compare
from ftrun.runner.story.figures import COMMON, CURVES, tell_figure, tell_number
from ftrun.runner.story.history import Series
from ftrun.runner.story.listing import as_json
from ftrun.runner.story.show import WIDEST
from ftrun.runner.story.sides import Setting, Source, read_side
from ftrun.runner.story.sparkline import draw_points
from ftrun.runner.story.terminal import Screen, look_at_terminal, print_lines
from ftrun.schemas.errors import RecipeError, TrackingError

DONE, NOT_FOUND = 0, 2

Row = tuple[str, str, str]


def compare_things(a: str, b: str, uri: str | None, format: str) -> int:
    """Print what differs between two recipes or runs, as `read_side` reads them, and return the exit code: 0, or 2
    where one of them cannot be found or read. Raises MissingExtra where only MLflow could tell."""
    try:
        difference = compare(read_side(a, uri), read_side(b, uri))
    except (RecipeError, TrackingError) as error:
        print(f"ftrun: {error}", file=sys.stderr)
        return NOT_FOUND
    if format == "json":
        print(json.dumps(describe_difference(difference), indent=2, ensure_ascii=False))
        return DONE
    console = make_console()
    print_lines(tell_difference(difference, look_at_terminal(console)), console)
    return DONE


def describe_difference(found: Difference) -> dict[str, Any]:
    """The difference as JSON has it."""

    def setting(one: Setting | None) -> Any:
        return None if one is None else {"value": one.value, "origin": one.origin}

    def source(one: Source | None) -> Any:
        return None if one is None else {"source": one.name, "sha256": one.digest, "rows": one.rows}

    return {
        "a": {"name": found.a.label, "kind": found.a.kind, "method": found.a.method},
        "b": {"name": found.b.label, "kind": found.b.kind, "method": found.b.method},
        "settings": [{"key": one.name, "a": setting(one.a), "b": setting(one.b)} for one in found.settings],
        "data": [{"place": one.name, "a": source(one.a), "b": source(one.b)} for one in found.data],
        "environment": [{"name": one.name, "a": one.a, "b": one.b} for one in found.environment],
        "curves": [
            {
                "metric": one.name,
                "common_steps": one.common,
                "first_step": one.first,
                "largest_step": one.worst,
                "largest": as_json(one.largest),
            }
            for one in found.curves
        ],
        "metrics_of_one": [{"metric": one.name, "of": "a" if one.b is None else "b"} for one in found.alone],
        "results": [{"name": one.name, "a": _plain(one.a), "b": _plain(one.b)} for one in found.results],
    }


def _plain(value: Any) -> Any:
    return as_json(value) if isinstance(value, float) else value


def tell_difference(found: Difference, screen: Screen) -> Iterator[Line]:
    """The difference for people."""
    for letter, side in (("A", found.a), ("B", found.b)):
        what = ", ".join(one for one in (side.kind, side.method) if one)
        yield Line(0, ((f"{letter}  {side.label}", "bold"), (f"  {what}", "dim")))
    yield from _settings(found, screen)
    yield from _section(
        "Data", [(one.name, _tell_source(one.a), _tell_source(one.b)) for one in found.data], screen
    )
    if found.results:
        rows = [(one.name, one.a or "-", one.b or "-") for one in found.environment]
        yield from _section("Environment", rows, screen)
        if not found.a.stages and not found.b.stages:
            yield from _curves(found, screen)
        yield from _results(found, screen)


def _settings(found: Difference, screen: Screen) -> Iterator[Line]:
    # What one side has and the other cannot have is news only where somebody wrote it.
    told = [one for one in found.settings if not _is_foreign_default(one)]
    yield from _section(
        "Settings", [(one.name, _tell_setting(one.a), _tell_setting(one.b)) for one in told], screen
    )
    left = len(found.settings) - len(told)
    if left:
        text = f"not shown: {left} default{'s' * (left > 1)} of keys that one side alone has; --format json has them"
        yield from screen.lines(text, 2, "dim")


def _is_foreign_default(pair: Pair[Setting]) -> bool:
    alone = pair.a if pair.b is None else pair.b if pair.a is None else None
    return alone is not None and alone.is_default


def _section(heading: str, rows: Sequence[Row], screen: Screen) -> Iterator[Line]:
    yield Line(0, (("", ""),))
    if not rows:
        yield Line(0, ((heading, "bold"), (": no difference", "green")))
        return
    yield Line(0, ((heading, "bold"), (f": {len(rows)} differ{'s' if len(rows) == 1 else ''}", "yellow")))
    yield from tell_rows(rows, screen)


def tell_rows(rows: Sequence[Row], screen: Screen) -> Iterator[Line]:
    """Names with what each side has: in columns where that fits, else one below the other."""
    wide = [max(len(row[column]) for row in rows) for column in range(3)]
    wide[1] = max(wide[1], 1)
    if 2 + sum(wide) + 4 <= screen.width or not screen.is_terminal:
        yield Line(2, ((f"{'':<{wide[0]}}  {'A':<{wide[1]}}  B", "dim"),))
        for name, a, b in rows:
            yield Line(2, ((f"{name:<{wide[0]}}  ", ""), (f"{a:<{wide[1]}}  {b}".rstrip(), "")))
        return
    for name, a, b in rows:
        yield Line(2, ((name, ""),))
        yield from screen.field("A", a, indent=4, column=3)
        yield from screen.field("B", b, indent=4, column=3)


def _tell_setting(setting: Setting | None) -> str:
    if setting is None:
        return "-"
    value = setting.value
    shown = (
        f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    )
    return f"{shown}  ({setting.origin})"


def _tell_source(source: Source | None) -> str:
    if source is None:
        return "-"
    rows = "" if source.rows is None else f", {source.rows:,} rows"
    digest = "not a file here" if source.digest is None else f"sha256 {source.digest[:12]}"
    return f"{source.name}{rows}, {digest}"


def _curves(found: Difference, screen: Screen) -> Iterator[Line]:
    yield Line(0, (("", ""),))
    if not found.curves:
        yield Line(0, (("Curves", "bold"), (": no metric that both logged", "dim")))
        return
    differing = [one for one in found.curves if one.first is not None]
    if not differing:
        told = f": no difference in {len(found.curves)} metrics, bit for bit, at the steps that both logged"
        yield Line(0, (("Curves", "bold"), (told, "green")))
    else:
        first = min(one.first for one in differing if one.first is not None)
        told = f": {len(differing)} of {len(found.curves)} metrics differ, from step {first} on"
        yield Line(0, (("Curves", "bold"), (told, "yellow")))
    if differing and any(one.name == "training.logging_steps" for one in found.settings):
        why = "what is logged is a mean over training.logging_steps, which differs: equal runs would differ here too"
        yield from screen.lines(why, 2, "dim")
    names = {**COMMON, **CURVES.get(found.a.method, {}), **CURVES.get(found.b.method, {})}
    shown = [one for one in differing if one.name in names]
    for one in shown:
        yield from _curve(one, names[one.name], screen)
    rest = [one.name for one in differing if one.name not in names]
    if rest:
        yield from screen.lines(f"also: {', '.join(rest)}", 2, "dim")
    for side, letter in ((found.a, "A"), (found.b, "B")):
        alone = [one.name for one in found.alone if (one.b is None) == (side is found.a)]
        if alone:
            yield from screen.lines(f"only {letter} logged: {', '.join(alone)}", 2, "dim")


def _curve(one: Divergence, label: str, screen: Screen) -> Iterator[Line]:
    a, b = dict(one.a.points), dict(one.b.points)
    assert one.first is not None and one.worst is not None
    told = (
        f"first at step {one.first}: {tell_number(a[one.first])} and {tell_number(b[one.first])}; "
        f"most at step {one.worst}, by {tell_number(one.largest)}"
    )
    if one.first == one.worst:
        told = f"at step {one.first}: {tell_number(a[one.first])} and {tell_number(b[one.first])}"
    yield from screen.lines(f"{label}, {told}", 2)
    room = max(8, min(WIDEST, screen.width - 30))
    steps = min(one.a.first[0], one.b.first[0]), max(one.a.last[0], one.b.last[0])
    values = _range(one.a, one.b)
    for letter, series in (("A", one.a), ("B", one.b)):
        plot = draw_points(series.points, unicode=screen.unicode, width=room, steps=steps, values=values)
        ends = f"  {tell_number(series.first[1])} → {tell_number(series.last[1])}"
        yield Line(4, ((f"{letter}  ", "dim"), (f"{plot:<{room}}", "cyan"), (ends, "")))


def _range(a: Series, b: Series) -> tuple[float, float] | None:
    """One scale for both plots."""
    lows = [one.lowest[1] for one in (a, b) if one.lowest is not None]
    highs = [one.highest[1] for one in (a, b) if one.highest is not None]
    return (min(lows), max(highs)) if lows else None


def _results(found: Difference, screen: Screen) -> Iterator[Line]:
    yield Line(0, (("", ""),))
    yield Line(0, (("Results", "bold"),))
    rows = [(one.name, _tell_result(one.name, one.a), _tell_result(one.name, one.b)) for one in found.results]
    yield from tell_rows(rows, screen)


def _tell_result(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "weights":
        return str(value)[:12]
    return tell_figure(name, value) if isinstance(value, float) else str(value)
