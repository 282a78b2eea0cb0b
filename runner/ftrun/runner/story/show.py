"""`ftrun show RUN`: the story of a run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ftrun.runner.printing.text import MARKS, Line, make_console
from ftrun.runner.story.advice import find_ways_on
from ftrun.runner.story.causes import find_causes
from ftrun.runner.story.figures import (
    choose_curves,
    find_figures,
    is_wide,
    tell_figure,
    tell_number,
    tell_seconds,
    tell_steps,
    tell_time,
)
from ftrun.runner.story.history import History
from ftrun.runner.story.listing import STYLES, as_json, describe_run, table, tell_ways
from ftrun.runner.story.source import find_history
from ftrun.runner.story.sparkline import draw_points, take_logs
from ftrun.runner.story.terminal import Screen, look_at_terminal, print_lines
from ftrun.runner.tracking.journal import now_ms
from ftrun.runner.tracking.lookup import REPRODUCES
from ftrun.runner.tracking.store import describe_place

NUMBER = 9
"""The width of a column of numbers."""

WIDEST = 48
"""The width of a plot where there is room."""


def show_run(reference: str, uri: str | None, format: str) -> int:
    """Print the story of the run that `reference` names (as `find_history` reads it) and return the exit code: 0.

    Raises TrackingError where there is no such run, MissingExtra where only MLflow could tell.
    """
    history = find_history(reference, uri, "show")
    if format == "json":
        print(json.dumps(describe_history(history), indent=2, ensure_ascii=False))
        return 0
    console = make_console()
    print_lines(tell_history(history, look_at_terminal(console)), console)
    return 0


def describe_history(history: History) -> dict[str, Any]:
    """The story as JSON has it."""
    now, files = now_ms(), history.files
    return describe_run(history.run, now) | {
        "uri": history.uri,
        "stages": [describe_run(one, now) for one in history.children],
        "tags": dict(history.run.tags),
        "settings": dict(files.settings),
        "data": [
            {"source": one.source, "context": one.context, "rows": one.rows, "sha256": one.digest}
            for one in history.data
        ],
        "causes": [one.as_data() for one in find_causes(history)],
        "metrics": {
            name: [[step, as_json(value)] for step, value in series.points]
            for name, series in history.series.items()
        },
        "figures": [
            {
                "name": one.name,
                "value": as_json(one.value),
                "before": None if one.before is None else as_json(one.before),
            }
            for one in find_figures(history.run)
        ],
        "events": [vars(one) | {"evidence": list(one.evidence)} for one in files.events],
        "findings": list(files.preflight.get("findings", ())),
    }


def tell_history(history: History, screen: Screen) -> Iterator[Line]:
    """The story for people."""
    yield from _head(history, screen)
    yield from _causes(history, screen)
    if history.children:
        yield from _heading("Stages")
        rows = [(0, one) for one in history.children]
        for line in table(rows, Screen(screen.width - 2, screen.is_terminal, screen.unicode), now_ms()):
            yield Line(line.indent + 2, line.parts)
    yield from tell_curves(history, screen)
    yield from _figures(history)
    yield from _events(history, screen)
    yield from _findings(history, screen)
    yield from _ways(history, screen)


def _heading(text: str) -> Iterator[Line]:
    yield Line(0, (("", ""),))
    yield Line(0, ((text, "bold"),))


def _head(history: History, screen: Screen) -> Iterator[Line]:
    run = history.run
    how = "" if run.is_pipeline or run.adaptation == "full" else f" with {run.adaptation}"
    yield Line(
        0, ((run.name, "bold"), ("  ", ""), (run.state, STYLES[run.state]), (f"  {run.method}{how}", ""))
    )
    for label, text in _facts(history):
        if text:
            yield from screen.field(label, text)
    # A command is copied whole.
    yield Line(12, ((describe_place(history.uri, "", ""), ""),))


def _facts(history: History) -> Iterator[tuple[str, str]]:
    """What the run is, each fact with its label; one without a text is not told."""
    run, tags = history.run, history.run.tags
    digest = tags.get("ftrun.recipe.digest", "")
    yield "recipe", run.recipe + (f" (digest {digest[:12]})" if digest else "")
    yield "stage", f"{tags['ftrun.stage']} of {tags['ftrun.pipeline']}" if "ftrun.pipeline" in tags else ""
    if REPRODUCES in tags:
        yield "repeats", f"run {tags[REPRODUCES]}: {tags.get('ftrun.reproduction', 'not compared')}"
    known = {one.name for one in history.children}
    for key, text in tags.items():
        name = text.partition(" ")[0]
        if key.startswith("ftrun.stage.") and name not in known:
            yield "", f"the stage {key.removeprefix('ftrun.stage.')} is taken from {name}"
    model, revision = history.setting("model.path"), history.setting("model.revision")
    yield "model", "" if model is None else f"{model}" + (f" at {revision}" if revision else "")
    for number, data in enumerate(history.data):
        what = "training" if data.context == "training" else "held out"
        text = f"{data.source}: {data.rows:,} rows, {what}, sha256 {data.digest[:12]}"
        yield "" if number else "data", text
    yield "code", _code(tags)
    yield "packages", next(iter(_environment(history.files.preflight)), "")
    yield from _course(history)


def _code(tags: Mapping[str, str]) -> str:
    commit, branch = tags.get("mlflow.source.git.commit", ""), tags.get("mlflow.source.git.branch")
    changes = ", with changes" if tags.get("mlflow.source.git.dirty") == "true" else ""
    return commit[:12] + (f" on {branch}" if branch else "") + changes if commit else ""


def _course(history: History) -> Iterator[tuple[str, str]]:
    """When and where it ran, how far it came, and where its record is."""
    run, tags = history.run, history.run.tags
    where = " ".join(
        f"{word} {tags[key]}" for word, key in (("by", "mlflow.user"), ("on", "ftrun.host")) if key in tags
    )
    yield "ran", f"{tell_time(run.started)}, {tell_seconds(run.seconds(now_ms()))}, {where}".rstrip(", ")
    yield "steps", "" if run.is_pipeline else tell_steps(run).replace("/", " of ")
    away = f"{tags['ftrun.folder']}, not on this machine" if "ftrun.folder" in tags else ""
    yield "folder", away if run.folder is None else str(run.folder)
    waiting = "has not taken it yet: ftrun sync sends it"
    yield "MLflow", f"run {run.run_id} of {run.experiment}" if run.run_id else waiting


def _environment(preflight: Mapping[str, Any]) -> Iterator[str]:
    facts = preflight.get("facts") or ()
    return (
        str(one.get("text")) for one in facts if isinstance(one, dict) and one.get("heading") == "Environment"
    )


def _causes(history: History, screen: Screen) -> Iterator[Line]:
    for number, cause in enumerate(find_causes(history)):
        yield from _heading("Also possible" if number else "Likely cause")
        yield from screen.lines(cause.what, 2, "" if number else "bold red")
        for text in cause.evidence:
            yield from screen.field("-", text, indent=4, column=2)
        if cause.fix:
            yield from screen.field("fix:", cause.fix, indent=4, column=5)


def tell_curves(history: History, screen: Screen) -> Iterator[Line]:
    """The curves of a run, each with its first, lowest, highest and last value."""
    curves = choose_curves(history.run.method, history.series)
    if not curves:
        return
    yield from _heading("Curves")
    curves = [(f"{label}, log" if is_wide(series) else label, series) for label, series in curves]
    wide = max(len(label) for label, _ in curves)
    columns = ("first", "lowest", "highest", "last")
    room = min(WIDEST, max(8, screen.width - 2 - wide - 2 - len(columns) * (NUMBER + 1)))
    steps = min(one.first[0] for _, one in curves), max(one.last[0] for _, one in curves)
    head = "".join(f" {name:>{NUMBER}}" for name in columns)
    span = f"step {steps[0]} to {steps[1]}"
    yield Line(2, ((f"{'':<{wide}}  {span if len(span) <= room else '':<{room}}{head}", "dim"),))
    for label, series in curves:
        points = take_logs(series.points) if is_wide(series) else series.points
        plot = draw_points(points, unicode=screen.unicode, width=room, steps=steps)
        numbers = [series.first, series.lowest, series.highest, series.last]
        told = "".join(f" {'-' if one is None else tell_number(one[1]):>{NUMBER}}" for one in numbers)
        style = "red" if series.broken else "cyan"
        yield Line(2, ((f"{label:<{wide}}  ", ""), (f"{plot:<{room}}", style), (told, "")))


def _figures(history: History) -> Iterator[Line]:
    figures = [] if history.run.is_pipeline else find_figures(history.run)
    if not figures:
        return
    yield from _heading("Held-out rows")
    wide = max(len(one.name) for one in figures)
    for one in figures:
        before = "" if one.before is None else f"  before training {tell_figure(one.name, one.before)}"
        yield Line(
            2, ((f"{one.name:<{wide}}  {tell_figure(one.name, one.value):>{NUMBER}}", ""), (before, "dim"))
        )


def _events(history: History, screen: Screen) -> Iterator[Line]:
    if not history.files.events:
        return
    yield from _heading("Guards")
    for event in history.files.events:
        yield from screen.field(event.guard, f"step {event.step}: {event.message}", column=10, style="yellow")
        yield from screen.lines(f"{event.done}.", 12)
        for text in event.evidence:
            yield from screen.lines(text, 12, "dim")


def _findings(history: History, screen: Screen) -> Iterator[Line]:
    findings = [one for one in history.files.preflight.get("findings", ()) if isinstance(one, dict)]
    if not history.files.preflight:
        return
    yield from _heading("Preflight")
    if not findings:
        yield Line(2, (("nothing found", "dim"),))
    for one in findings:
        mark, style = MARKS["ignored" if one.get("ignored") else str(one.get("severity"))]
        yield from screen.field(f"{mark}", f"{one.get('id')} {one.get('message')}", column=2, style=style)
        if one.get("ignored"):
            yield from screen.lines(f"ignored: {one['ignored']}", 4, "dim")


def _ways(history: History, screen: Screen) -> Iterator[Line]:
    run = history.run
    # A pipeline makes the model of its last stage.
    is_made = run.state == "finished" and bool(history.children)
    ways = find_ways_on(history.children[-1] if is_made else run)
    if not ways:
        return
    yield from _heading("Next")
    yield from tell_ways(ways, screen)
