"""Which column of a file is which of a format, guessed by name, and what stands in the first rows."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ftrun.checks.examples import squeeze
from ftrun.schemas.formats import COLUMNS
from ftrun.schemas.spelling import nearest

SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "prompt": (
        "question",
        "query",
        "instruction",
        "input",
        "problem",
        "request",
        "user",
        "human",
        "source",
        "message",
    ),
    "completion": ("answer", "response", "output", "target", "reply", "solution", "assistant", "generation"),
    "instruction": ("prompt", "question", "query", "task", "request"),
    "output": ("response", "answer", "completion", "target", "reply", "solution"),
    "messages": ("conversation", "dialogue", "dialog", "chat", "turns"),
    "conversations": (),
    "chosen": ("preferred", "better", "accepted", "winner", "positive", "chosen_response"),
    "rejected": ("dispreferred", "worse", "loser", "negative", "rejected_response"),
    "text": ("content", "body", "document", "passage", "article", "sentence"),
}
"""What data sets on the hub call the columns that a format needs, the most usual first."""


FIRST = 20
"""Rows that are looked into."""


def guess_columns(
    columns: Sequence[str], formats: Iterable[str], given: Mapping[str, str]
) -> dict[str, str] | None:
    """A mapping from a format's names to those in `columns`, without the names that are the same.

    `given` is the part that is known. Of several formats the one wins that has most columns under its own
    names; None where the columns of no format are found.
    """
    found = [match for format in formats if (match := _match(COLUMNS[format][0], columns, given)) is not None]
    if not found:
        return None
    best = max(found, key=lambda match: sum(ours == theirs for ours, theirs in match.items()))
    if "chosen" in best and (prompt := find_prompt([name for name in columns if name not in best.values()])):
        best["prompt"] = prompt
    return {ours: theirs for ours, theirs in best.items() if ours != theirs}


def _match(needed: Sequence[str], columns: Sequence[str], given: Mapping[str, str]) -> dict[str, str] | None:
    match: dict[str, str] = {}
    free = [name for name in columns if name not in given.values()]
    for ours in needed:
        theirs = given.get(ours) or _find(ours, free)
        if theirs is None and needed == ("text",) and len(columns) == 1:
            theirs = columns[0]
        if theirs is None:
            return None
        match[ours] = theirs
        free = [name for name in free if name != theirs]
    return match


def _find(ours: str, columns: Sequence[str]) -> str | None:
    """The column that is called `ours` or a synonym: as a whole, as its last word, or nearly so."""
    words = (ours, *SYNONYMS[ours])
    for is_same in (_form, _last_word):
        for word in words:
            for name in columns:
                if is_same(name) == _form(word):
                    return name
    return nearest(ours, columns, cutoff=0.8)


def _form(name: str) -> str:
    """Lower case, joined by `_`, without the s of a plural."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_").removesuffix("s")


def _last_word(name: str) -> str:
    return _form(name).rpartition("_")[2]


def find_prompt(columns: Sequence[str]) -> str | None:
    """The column that is called like a prompt, where none is called `prompt` or `conversations`; else None."""
    if {"prompt", "conversations"} & set(columns):
        return None
    return next((name for word in SYNONYMS["prompt"] for name in columns if _form(name) == word), None)


def read_first_rows(path: Path, most: int = FIRST) -> list[Mapping[str, Any]]:
    """The first rows of a file of JSON lines or of CSV; none of another, or of one that cannot be read."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() == ".csv":
                return list(islice(csv.DictReader(file), most))
            if path.suffix.lower() in (".jsonl", ".ndjson"):
                rows = [json.loads(line) for line in islice(file, most)]
                return [row for row in rows if isinstance(row, dict)]
    except (OSError, ValueError, csv.Error, RecursionError):  # reading the rows tells what is wrong
        pass
    return []


def stands_elsewhere(rows: Sequence[Mapping[str, Any]], held: str, other: str, least: float) -> bool:
    """Whether the column `held` of most rows holds nothing of the column `other`, and the texts of that one are
    at least `least` times as long in all: mere labels are not."""
    told = [(squeeze(text_of(row.get(held))), squeeze(text_of(row.get(other)))) for row in rows]
    apart = sum(one not in whole for whole, one in told if one)
    lengths = [sum(len(pair[side]) for pair in told) for side in (0, 1)]
    return apart > len(rows) / 2 and lengths[1] >= least * lengths[0]


def text_of(value: Any) -> str:
    """The text of a cell: itself, or that of its messages."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return text_of(value.get("content", value.get("value")))
    return "".join(map(text_of, value)) if isinstance(value, list) else ""


def tell_apart(one: str, other: str) -> tuple[str, str]:
    """What is left of two names without what they begin and end with alike: a and b of `answer_a` and `answer_b`."""
    while one[:1] == other[:1] != "":
        one, other = one[1:], other[1:]
    while one[-1:] == other[-1:] != "":
        one, other = one[:-1], other[:-1]
    return one.strip("_- "), other.strip("_- ")
