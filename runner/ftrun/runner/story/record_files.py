"""The files of a record, read as far as they are there: a run that broke off left only some of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ftrun.runner.tracking.journal import METRICS_FILE, Entry, read_journal

RESOLVED, WRITTEN, PREFLIGHT, EVENTS = (
    "recipe.resolved.yaml",
    "recipe.yaml",
    "preflight.json",
    "events.jsonl",
)
ERROR, LOCK = "error.txt", "lock.json"
FILES = (RESOLVED, WRITTEN, PREFLIGHT, EVENTS, ERROR, LOCK, METRICS_FILE)
"""The files that are read, by the names that they have in a run folder and among MLflow's artifacts."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Event:
    """What a guard said at a step, and what was done."""

    step: int
    guard: str
    message: str
    done: str
    fix: str
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True)
class RecordFiles:
    """What the files of a record say; empty where a file is not there or cannot be read."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    """The resolved recipe."""

    written: str = ""
    """The recipe as it was written."""

    preflight: Mapping[str, Any] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    error: str = ""
    """The traceback of a run that broke."""

    lock: Mapping[str, Any] = field(default_factory=dict)
    entries: tuple[Entry, ...] = ()
    """The journal, in the order in which it was written."""


def read_record_files(folder: Path) -> RecordFiles:
    """The files of a record in a folder."""
    return RecordFiles(
        settings=_mapping(_read(folder / RESOLVED, yaml.safe_load)),
        written=_read(folder / WRITTEN, str) or "",
        preflight=_mapping(_read(folder / PREFLIGHT, json.loads)),
        events=tuple(_read_events(_read(folder / EVENTS, str) or "")),
        error=_read(folder / ERROR, str) or "",
        lock=_mapping(_read(folder / LOCK, json.loads)),
        entries=tuple(read_journal(folder / METRICS_FILE)),
    )


def _read(path: Path, parse: Callable[[str], Value]) -> Value | None:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _read_events(text: str) -> Iterator[Event]:
    for line in text.splitlines():
        try:
            told = json.loads(line)
            yield Event(
                int(told["step"]),
                str(told["guard"]),
                str(told["message"]),
                str(told["done"]),
                str(told["fix"]),
                tuple(map(str, told["evidence"])),
            )
        except (ValueError, KeyError, TypeError):  # a line that a crash cut short
            continue
