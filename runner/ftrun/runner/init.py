"""`ftrun init`: a short, commented starter recipe for a method and a file of rows, valid at once."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ftrun.checks.columns import find_prompt, guess_columns
from ftrun.runner.data.files import read_head
from ftrun.runner.data.readers import READERS, read_file
from ftrun.runner.printing.text import make_console
from ftrun.schemas.errors import DataError, FtrunError
from ftrun.schemas.formats import COLUMNS, FORMATS, describe_needs, recognise, rename
from ftrun.schemas.load import load_recipe, method_names
from ftrun.schemas.sections import Source

UNSEEN = {"sft": "prompt_completion", "reward": "preference", "dpo": "preference", "ppo": "prompts"}
"""The format that is assumed of a file whose columns a look does not tell."""

CONVERSATIONS = ("messages", "conversations")
"""The columns that hold lists of messages."""

EITHER = ("preference", "prompts")
"""The formats whose columns hold texts or lists of messages."""

FIRST = 20
"""Rows that are looked into."""

LOSS = {
    "text": "  # every token of a text is trained",
    "prompt_completion": "  loss_on: completion         # only the answer is trained, not the prompt",
    "alpaca": "  loss_on: completion         # only the answer is trained, not the instruction",
    "messages": "  loss_on: assistant          # every turn of the assistant is trained, nothing else",
    "sharegpt": "  loss_on: assistant          # every turn of the assistant is trained, nothing else",
}


def write_starter(method: str, data: Path | None, output: Path | None) -> int:
    """Write the recipe, and example rows beside it where there is no `data`.

    Raises FtrunError where the method is unknown, the rows cannot be told, or a file is in the way.
    """
    if method not in method_names():
        raise FtrunError(f"there is no method {method}; there is {', '.join(method_names())}")
    target = output or Path(f"{method}.yaml")
    code = target.with_suffix(".py") if _has(f"{method}.py") else None
    for file in (target, code):
        if file is not None and file.exists():
            raise FtrunError(f"{file} is there already; choose another name with --output")
    console = make_console()
    if data is None:
        data = target.with_name(f"{target.stem}.jsonl")
        count = _write_examples(method, data)
        console.print(f"wrote {data}: {count} example rows to replace with your own")
    text, unused = make_starter(method, data, target)
    if code is not None:
        code.write_text(_read(f"{method}.py"), encoding="utf-8")
        console.print(f"wrote {code}: what an answer is worth, to replace with your own")
    target.write_text(text, encoding="utf-8")
    load_recipe(target)
    console.print(f"wrote {target}" + (f"; columns not used: {', '.join(unused)}" if unused else ""))
    console.print(f"next: ftrun preview {target}, then ftrun {target}")
    return 0


def _write_examples(method: str, path: Path) -> int:
    """Enough rows to see everything work, not to teach a model; returns how many."""
    if path.exists():
        raise FtrunError(f"{path} is there already; give it as DATA, or choose another name with --output")
    text = _read(f"{method}.jsonl")
    path.write_text(text, encoding="utf-8")
    return text.count("\n")


def _has(name: str) -> bool:
    return (files("ftrun.runner") / "starters" / name).is_file()


def _read(name: str) -> str:
    return (files("ftrun.runner") / "starters" / name).read_text(encoding="utf-8")


def make_starter(method: str, data: Path, target: Path) -> tuple[str, list[str]]:
    """The text of a starter recipe at `target` for the rows in `data`, and the columns that it makes no use of."""
    file = _first_file(data) if data.is_dir() else data
    head = read_head(Source(path=str(file)), "data.train.0", Path())
    if head.place in ("missing", "hub"):
        raise FtrunError(f"{file} is not there")
    if head.problem is not None:
        raise FtrunError(head.problem)
    format, columns = _recognise(method, head.columns, file)
    source = ""
    if columns:
        mapping = ", ".join(f"{ours}: {json.dumps(theirs)}" for ours, theirs in columns.items())
        source = f"      columns: {{{mapping}}}   # the format's names, each with the name in your file\n"
    # The functions of a PPO run are given every column.
    used = set(head.columns or ()) if method == "ppo" else {*chain(*COLUMNS[format]), *columns.values()}
    text = _read(f"{method}.yaml").format(
        file=target,
        name=_make_name(data.stem, method),
        data=json.dumps(os.path.relpath(data, target.parent).replace(os.sep, "/")),
        source=source,
        loss=LOSS.get(format, ""),
        code=target.with_suffix(".py").name,
    )
    return text, [name for name in head.columns or () if name not in used]


def _first_file(folder: Path) -> Path:
    """The first file of a folder that ftrun reads: the others are like it."""
    files = (file for file in sorted(folder.rglob("*")) if file.suffix.lower() in READERS)
    first = next((file for file in files if file.is_file()), None)
    if first is None:
        raise FtrunError(f"{folder} holds no file that ftrun reads: {', '.join(READERS)}")
    return first


def _recognise(method: str, columns: Sequence[str] | None, data: Path) -> tuple[str, dict[str, str]]:
    """The format of the file, and the `columns:` that it needs; the method's usual one where a look does not tell."""
    if columns is None:
        return UNSEEN[method], {}
    try:
        format = recognise(columns, method)
        prompt = find_prompt(columns) if format == "preference" else None
        return format, {"prompt": prompt} if prompt else {}
    except DataError:
        rows = [row for _, row in islice(read_file(data, str(data)), FIRST) if isinstance(row, dict)]
        fitting = [format for format in FORMATS[method] if _holds(rows, format, columns)]
        mapping = guess_columns(columns, fitting, {})
    if mapping is None:
        raise FtrunError(
            f"{data} has the columns {', '.join(columns)}, and no format of {method} fits them. Formats "
            f"need: {describe_needs(method)}; rename columns in the file, or run `ftrun init {method}` without it and "
            "name its columns under `columns:` there"
        )
    return recognise(rename(dict.fromkeys(columns), mapping), method), mapping


def _holds(rows: Sequence[Mapping[str, Any]], format: str, columns: Sequence[str]) -> bool:
    """Whether the columns that are guessed for a format hold what it needs: conversations or texts."""
    mapping = guess_columns(columns, [format], {})
    if mapping is None:
        return False
    for name in COLUMNS[format][0]:
        value = next((row[told] for row in rows if row.get(told := mapping.get(name, name))), None)
        is_list = isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith("[{"))
        if value is not None and is_list != (name in CONVERSATIONS) and format not in EITHER:
            return False
    return True


def _make_name(stem: str, method: str) -> str:
    words = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:80]
    return f"{words}-{method}" if words and words != method else method
