"""What a record holds that speaks for one cause or another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from ftrun.runner.story.figures import tell_number
from ftrun.runner.story.history import History, Series
from ftrun.runner.story.record_files import Event
from ftrun.runner.tracking.journal import read_journal
from ftrun.runner.tracking.ledger import SYSTEM_FILE

WINDOW = 5
RISE, FACTOR, GROWTH = 1.0, 1.5, 2.0
"""A loss whose median over WINDOW logs ends RISE above its best and FACTOR times it has left what it had reached.
The guard GUARD002 asks for 1.5 and 2 over every step; a run that is over can be judged more strictly. The norm of
the gradient is compared likewise, by GROWTH."""

LONGEST = 240
LOWERS = "Lower training.learning_rate"
FRAME = re.compile(r'^  File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<name>.+)$', re.MULTILINE)


def find_line(pattern: re.Pattern[str], text: str) -> str | None:
    """The first line of a text that a pattern is found in, cut at LONGEST characters."""
    found = pattern.search(text)
    if found is None:
        return None
    start, end = text.rfind("\n", 0, found.start()) + 1, text.find("\n", found.end())
    return _cut(text[start : None if end < 0 else end].strip())


def last_line(text: str) -> str:
    """The last line of a traceback that begins at its margin, which names the error, cut at LONGEST characters."""
    lines = [line for line in text.splitlines() if line and not line[0].isspace()]
    return _cut(lines[-1]) if lines else ""


def last_frame(text: str) -> str:
    """Where a traceback ends: file, line, function; empty where there is none."""
    frames = list(FRAME.finditer(text))
    return f"{frames[-1]['file']}:{frames[-1]['line']}, in {frames[-1]['name']}" if frames else ""


def find_broken(history: History) -> list[str]:
    """Where loss or gradient was NaN or infinite, by the guard that reads every step and by what was logged."""
    said = [one.message for one in history.files.events if one.guard == "GUARD001"]
    told = [
        f"GUARD001: {message}" + (f" ({said.count(message)} times)" if said.count(message) > 1 else "")
        for message in dict.fromkeys(said)
    ]
    logged = [
        f"{label} is {tell_number(point[1])} at step {point[0]}"
        for label, series in _loss_and_norm(history)
        if (point := series.broken) is not None
    ]
    return [*told, *logged]


def find_rise(history: History) -> list[str]:
    """A loss that fell and then rose for good, with what its gradients did; empty where it did not."""
    pairs = _loss_and_norm(history)
    curves = dict(pairs)
    loss = curves.get("the loss")
    if loss is None or len(loss.points) < 2 * WINDOW:
        return []
    steps, values = [step for step, _ in loss.points], loss.values
    best, low = min(_medians(values[:-WINDOW]), key=lambda one: one[1])
    end = median(values[-WINDOW:])
    # NaN compares as false, and is told as such.
    if not (end > low + RISE and end > FACTOR * low):
        return []
    evidence = [
        f"the loss fell to {tell_number(low)} around step {steps[best]} and rose to {tell_number(end)}"
    ]
    norm = curves.get("the norm of the gradient")
    if norm is None or len(norm.points) != len(loss.points):
        return evidence
    then, now = median(norm.values[best : best + WINDOW]), median(norm.values[-WINDOW:])
    grew = now > GROWTH * then
    evidence.append(
        f"the norm of the gradient {'grew' if grew else 'went'} from {tell_number(then)} to {tell_number(now)}"
    )
    return evidence if grew else []


def find_warnings(history: History) -> list[str]:
    """What preflight had said against the learning rate, ignored or not."""
    return [
        f"preflight had said {one.get('id')}: {one.get('message')}"
        for one in history.files.preflight.get("findings", ())
        if str(one.get("fix")).startswith(LOWERS)
    ]


def find_memory(history: History) -> tuple[float, str] | None:
    """The share of the machine's memory in use when it was last sampled, in percent, and how to say it."""
    folder = history.run.folder
    name = "system/system_memory_usage_percentage"
    if folder is not None and (samples := read_journal(Path(folder, SYSTEM_FILE))):
        share = samples[-1].metrics.get(name)
    else:
        share = history.run.latest.get(name, (0, None))[1]
    return (
        None
        if share is None
        else (share, f"{share:.0f}% of the machine's memory was in use at the last sample")
    )


def tell_event(event: Event) -> str:
    """What a guard said at a step, and what was done."""
    return f"{event.guard} at step {event.step}: {event.message} {event.done.capitalize()}."


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _medians(values: Sequence[float]) -> list[tuple[int, float]]:
    """The median of each WINDOW of values, with the index that it begins at."""
    return [(start, median(values[start : start + WINDOW])) for start in range(len(values) - WINDOW + 1)]


def _loss_and_norm(history: History) -> list[tuple[str, Series]]:
    """Loss and norm as they were logged, steps that were given up later included."""
    names = {"train/loss": "the loss", "train/grad_norm": "the norm of the gradient"}
    points: dict[str, list[tuple[int, float]]] = {}
    for entry in history.files.entries:
        for name in entry.metrics.keys() & names.keys():
            points.setdefault(name, []).append((entry.step, entry.metrics[name]))
    return [(names[name], Series(name, tuple(points[name]))) for name in names if name in points]
