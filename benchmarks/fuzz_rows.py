"""Rows of every format, changed, in files of every kind."""

from __future__ import annotations

import csv
import io
import json
import random
from copy import deepcopy
from pathlib import Path
from typing import Any

from fuzz_changes import mutate_tree
from fuzz_values import odd_value

SHAPES: dict[str, dict[str, Any]] = {
    "prompt_completion": {"prompt": "What is {i}?\n", "completion": "It is {i}."},
    "messages": {
        "messages": [{"role": "user", "content": "Say {i}"}, {"role": "assistant", "content": "{i}"}]
    },
    "alpaca": {"instruction": "Count to {i}.", "input": "", "output": "1 2 {i}"},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "Hi {i}"}, {"from": "gpt", "value": "Hello {i}"}]
    },
    "tools": {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Weather {i}?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"type": "function", "function": {"name": "look", "arguments": {"place": "{i}"}}}
                ],
            },
            {"role": "tool", "name": "look", "content": "sun"},
            {"role": "assistant", "content": [{"type": "text", "text": "Sun."}]},
        ],
        "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}],
    },
    "text": {"text": "The number {i} is a number."},
    "preference": {"prompt": "Is {i} even?\n", "chosen": "It is {i}.", "rejected": "No."},
    "prompts": {"prompt": "What is {i}?\n"},
}
OF_METHOD = {
    "sft": ("prompt_completion", "messages", "tools", "alpaca", "sharegpt", "text"),
    "reward": ("preference",),
    "dpo": ("preference",),
    "ppo": ("prompts",),
}


def draw_rows(method: str, rng: random.Random) -> tuple[list[Any], str]:
    """Rows of a format of the method, some of them changed, and the format's name."""
    shape_name = rng.choice(OF_METHOD[method])
    format = "messages" if shape_name == "tools" else shape_name
    shape = json.dumps(SHAPES[shape_name])
    rows: list[Any] = [
        json.loads(shape.replace("{i}", str(i))) for i in range(rng.choice([0, 1, 2, 12, 12, 40]))
    ]
    if method in ("dpo", "reward") and rng.random() < 0.4:
        rows = [
            {
                "prompt": [{"role": "user", "content": row["prompt"]}],
                **{side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")},
            }
            for row in rows
        ]
    changed = rng.random() ** 2
    for index in range(rng.random() < 0.7, len(rows)):  # the first row is what tells the columns
        if rng.random() < changed:
            rows[index] = mutate_tree(rows[index], rng) if rng.random() < 0.9 else odd_value(rng)
    if rows and rng.random() < 0.15:
        rows.append(deepcopy(SHAPES[rng.choice(list(SHAPES))]))
    if rows and rng.random() < 0.1:
        rows[0] = {
            key: "word " * 40_000 if isinstance(value, str) else value
            for key, value in (rows[0].items() if isinstance(rows[0], dict) else ())
        }
    return rows, format


def write_rows(rows: list[Any], folder: Path, rng: random.Random) -> Path:
    """Write rows as a file of some kind, or as a folder of files."""
    kind = rng.choice(
        ["jsonl", "jsonl", "json", "csv", "parquet", "arrow", "folder", "saved", "ndjson", "txt"]
    )
    if kind == "folder":
        inner = folder / "many"
        inner.mkdir(exist_ok=True)
        for part in range(rng.randint(0, 3)):
            write_rows(rows[part::3], inner, random.Random(rng.random()))
        return inner
    if kind == "saved":
        return _save_to_disk(rows, folder / "saved")
    path = folder / f"{rng.choice(['train', 'a', 'test-0'])}{rng.randrange(9)}.{kind}"
    plain = json.loads(json.dumps(rows, default=str, skipkeys=True))
    if kind in ("parquet", "arrow"):
        return _write_columns(plain, path, rng)
    text = io.StringIO()
    if kind == "csv":
        table = [row for row in plain if isinstance(row, dict)]
        names = list(dict.fromkeys(name for row in table for name in row))
        writer = csv.DictWriter(text, names)
        writer.writeheader()
        writer.writerows(table)
    elif kind == "json":
        json.dump(plain, text, ensure_ascii=rng.random() < 0.5)
    else:
        text.writelines(json.dumps(row, ensure_ascii=rng.random() < 0.5) + "\n" for row in plain)
    path.write_bytes(text.getvalue().encode("utf-8", "surrogatepass"))
    return path


def _write_columns(rows: list[Any], path: Path, rng: random.Random) -> Path:
    """As Arrow takes them; columns of more than one type are written as text."""
    import pyarrow as pa
    import pyarrow.parquet

    table = [row for row in rows if isinstance(row, dict)]
    columns = {}
    for name in dict.fromkeys(name for row in table for name in row):
        values = [row.get(name) for row in table]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowException, OverflowError, ValueError, UnicodeEncodeError):
            columns[name] = pa.array([None if value is None else ascii(value) for value in values])
    made = pa.table(columns)
    if path.suffix == ".parquet":
        try:
            pyarrow.parquet.write_table(made, path)
        except pa.ArrowException:  # a struct without fields, which parquet cannot hold
            path.write_bytes(b"PAR1")
        return path
    make = rng.choice([pa.ipc.new_file, pa.ipc.new_stream])
    try:
        with pa.OSFile(str(path), "wb") as sink, make(sink, made.schema) as writer:
            writer.write_table(made)
    except pa.ArrowException:  # nested deeper than Arrow writes
        path.write_bytes(b"ARROW1")
    return path


def _save_to_disk(rows: list[Any], folder: Path) -> Path:
    """A folder as `datasets` saves one, of plain rows: the library takes very long over deeply nested ones."""
    from datasets import Dataset

    Dataset.from_list([{"text": ascii(row)} for row in rows] or [{"text": "a"}]).save_to_disk(str(folder))
    return folder
