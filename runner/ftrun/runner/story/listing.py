"""`ftrun runs`: the runs of a store, the newest first."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftrun.runner.printing.text import Line, make_console
from ftrun.runner.references import OUTPUT
from ftrun.runner.story.advice import Way, find_ways_on
from ftrun.runner.story.figures import (
    tell_headline,
    tell_number,
    tell_seconds,
    tell_steps,
    tell_time,
)
from ftrun.runner.story.run import Run, State
from ftrun.runner.story.source import list_experiments, open_store, read_run, search
from ftrun.runner.story.terminal import Screen, look_at_terminal, print_lines
from ftrun.runner.tracking.delivery import describe_error
from ftrun.runner.tracking.journal import now_ms
from ftrun.runner.tracking.secrets import redact_text
from ftrun.runner.tracking.store import resolve_uri
from ftrun.schemas.errors import TrackingError

NEWEST = 20
"""Runs that are shown without `--all`."""

MOST = 100_000
"""Runs that are shown with it."""

FARTHEST = 1000
"""How far down the run is looked for that a newer one belongs to; beyond that it stands alone."""

STYLES: Mapping[State, str] = {
    "running": "cyan",
    "silent": "yellow",
    "dead": "bold red",
    "finished": "green",
    "failed": "bold red",
    "interrupted": "yellow",
    "killed": "bold red",
}
"""The colours of states."""


@dataclass(frozen=True)
class Entry:
    """A run of the list, and those below it: the stages of a pipeline, the repetitions of a run."""

    run: Run
    below: tuple[Entry, ...] = ()

    def as_data(self, now: int) -> dict[str, Any]:
        """What JSON says of it."""
        return describe_run(self.run, now) | {"below": [one.as_data(now) for one in self.below]}

    def rows(self, depth: int = 0) -> Iterator[tuple[int, Run]]:
        """The run and all below it, each with its depth."""
        yield depth, self.run
        for one in self.below:
            yield from one.rows(depth + 1)


def list_runs(
    output: Path | None, uri: str | None, experiment: str | None, everything: bool, format: str
) -> int:
    """Print the runs of a store and return the exit code: 0.

    The store is the one in the folder `output`, or the one at `uri`, as `resolve_uri` reads it. Stages stand below
    their pipeline's run, repetitions below the run that they repeat. Without `everything` the
    newest NEWEST are shown. Raises TrackingError where there is no store or no such experiment.
    """
    place = f"sqlite:///{output.absolute() / 'mlflow.db'}" if output else resolve_uri(uri, OUTPUT)
    entries, more = read_entries(place, experiment, MOST if everything else NEWEST)
    now = now_ms()
    if format == "json":
        print(json.dumps([entry.as_data(now) for entry in entries], indent=2, ensure_ascii=False))
        return 0
    console = make_console()
    screen = look_at_terminal(console)
    print_lines(_lines(entries, more, place, screen, now), console)
    return 0


def describe_run(run: Run, now: int) -> dict[str, Any]:
    """A run as the list's JSON has it: what NaN and infinities are is text there, as in the journal."""
    loss = run.latest.get("train/loss")
    ways = find_ways_on(run)
    return run.as_data(now) | {
        "loss": None if loss is None else as_json(loss[1]),
        "held_out": tell_headline(run) or None,
        "commands": [way.command for way in ways],
    }


def as_json(value: float) -> float | str:
    """A number as JSON has it."""
    return value if value - value == 0 else tell_number(value)


def read_entries(uri: str, experiment: str | None, most: int) -> tuple[list[Entry], bool]:
    """The newest runs of a store, `most` without those below them, and whether there are more."""
    client = open_store(uri, "runs")
    try:
        names = list_experiments(client)
        if experiment is not None:
            names = {id: name for id, name in names.items() if name == experiment}
        if not names:
            raise TrackingError(f"there is no experiment {experiment} in {redact_text(uri)}")
        # Stages count for nothing, and the run that one belongs to may be far below it: more is read until it is there.
        limit = most + 1
        while True:
            found = search(client, names, "", limit)
            entries = _in_families([read_run(one, names[one.info.experiment_id]) for one in found])
            is_all = len(found) < limit
            is_enough = len(entries) > most and not any(one.run.parent for one in entries[:most])
            if is_all or is_enough or limit > FARTHEST:
                return entries[:most], not is_all or len(entries) > most
            limit *= 2
    except TrackingError:
        raise
    except Exception as error:  # whatever the store, its driver or the network raises
        raise TrackingError(f"{redact_text(uri)} cannot be read: {describe_error(error)}") from error


def _in_families(runs: Sequence[Run]) -> list[Entry]:
    """Runs with those below them, both in the order of `runs` and of their beginning."""
    ids = {one.run_id for one in runs}
    below: dict[str, list[Run]] = {}
    for run in reversed(runs):
        below.setdefault(run.parent, []).append(run)

    def gather(run: Run) -> Entry:
        return Entry(run, tuple(gather(one) for one in below.get(run.run_id, ())))

    return [gather(run) for run in runs if run.parent not in ids]


@dataclass(frozen=True)
class Column:
    """A column of the list. Those of the lowest rank go first where the terminal is narrow."""

    heading: str
    tell: Callable[[Run, int], str]
    rank: int
    is_number: bool = False


COLUMNS = (
    Column("method", lambda run, now: _method(run), 2),
    Column("state", lambda run, now: run.state, 9),
    Column("started", lambda run, now: tell_time(run.started), 3),
    Column("time", lambda run, now: tell_seconds(run.seconds(now)), 1, True),
    Column("steps", lambda run, now: tell_steps(run), 5, True),
    Column("loss", lambda run, now: _loss(run), 7, True),
    Column("held out", lambda run, now: tell_headline(run), 8),
    Column("guards", lambda run, now: str(run.guard_events or ""), 6, True),
    Column("experiment", lambda run, now: run.experiment, 0),
)


def _method(run: Run) -> str:
    return run.method if run.is_pipeline or run.adaptation == "full" else f"{run.method} {run.adaptation}"


def _loss(run: Run) -> str:
    return tell_number(run.latest["train/loss"][1]) if "train/loss" in run.latest else ""


def _lines(entries: Sequence[Entry], more: bool, uri: str, screen: Screen, now: int) -> Iterator[Line]:
    if not entries:
        yield Line(0, ((f"no runs yet in {redact_text(uri)}", ""),))
        return
    rows = [row for entry in entries for row in entry.rows()]
    yield from table(rows, screen, now, with_experiment=len({run.experiment for _, run in rows}) > 1)
    for _, run in rows:
        yield from _tell_dead(run, screen)
    if more:
        yield Line(0, ((f"only the newest {len(entries)}; --all shows every one", "dim"),))
    yield Line(0, (("ftrun show RUN tells one in full", "dim"),))


def table(
    rows: Sequence[tuple[int, Run]], screen: Screen, now: int, *, with_experiment: bool = False
) -> Iterator[Line]:
    """Runs in columns, each row with its depth; on a narrow terminal without those that matter least."""
    names = [f"{'  ' * depth}{run.name}" for depth, run in rows]
    cells = {column: [column.tell(run, now) for _, run in rows] for column in COLUMNS}
    shown = [one for one in COLUMNS if any(cells[one]) and (one.heading != "experiment" or with_experiment)]
    wide = {one: max(len(one.heading), *map(len, cells[one])) for one in shown}
    first = max(len("run"), *map(len, names))
    while (
        screen.is_terminal and len(shown) > 1 and first + sum(wide[one] + 2 for one in shown) > screen.width
    ):
        shown.remove(min(shown, key=lambda one: one.rank))
    head = [one.heading.rjust(wide[one]) if one.is_number else one.heading.ljust(wide[one]) for one in shown]
    yield Line(0, (("  ".join([f"{'run':<{first}}", *head]).rstrip(), "dim"),))
    for number, (_, run) in enumerate(rows):
        parts = [(f"{names[number]:<{first}}", "bold" if not rows[number][0] else "")]
        for one in shown:
            text = cells[one][number]
            text = text.rjust(wide[one]) if one.is_number else text.ljust(wide[one])
            parts.append((f"  {text}", STYLES[run.state] if one.heading == "state" else ""))
        parts[-1] = (parts[-1][0].rstrip(), parts[-1][1])
        yield Line(0, tuple(parts))


def _tell_dead(run: Run, screen: Screen) -> Iterator[Line]:
    if run.state not in ("dead", "silent"):
        return
    why = (
        "its process is gone, and MLflow holds it as running"
        if run.state == "dead"
        else f"it gave no sign of life since {tell_time(run.last_sign)}"
    )
    yield from screen.lines(f"{run.name} is {run.state}: {why}", 0, STYLES[run.state])
    yield from tell_ways(find_ways_on(run), screen)


def tell_ways(ways: Sequence[Way], screen: Screen) -> Iterator[Line]:
    """Commands, each whole in one line, with what they do behind them where there is room for all, else below."""
    column = max((len(way.command) for way in ways), default=0) + 2
    is_wide = all(2 + column + len(way.what) <= screen.width for way in ways)
    for way in ways:
        if is_wide or not screen.is_terminal:
            yield Line(2, ((f"{way.command:<{column}}", ""), (way.what, "dim")))
        else:
            yield Line(2, ((way.command, ""),))
            yield from screen.lines(way.what, 4, "dim")
