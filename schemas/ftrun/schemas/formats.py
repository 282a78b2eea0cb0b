"""Formats of training rows, told by their columns.

format              columns                          becomes, in TRL's shapes
text                text                             {text}
prompt_completion   prompt, completion               {prompt, completion}, texts or lists of messages
messages            messages [, tools]               {messages [, tools]}
sharegpt            conversations [, system, tools]  {messages [, tools]}
alpaca              instruction, output [, input]    {prompt, completion}, as messages where there is a
                                                     chat template, else in the layout of Stanford Alpaca
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ftrun.schemas.errors import DataError

COLUMNS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "messages": (("messages",), ("tools", "chat_template_kwargs")),
    "prompt_completion": (("prompt", "completion"), ("tools", "chat_template_kwargs")),
    "alpaca": (("instruction", "output"), ("input", "system", "history")),
    "sharegpt": (("conversations",), ("system", "tools")),
    "text": (("text",), ()),
}
"""The columns that each format needs and those that it may have, in the order in which they are tried."""


def rename(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The row with its columns under the format's names. `columns` maps the format's name to the file's."""
    of_file = {theirs: ours for ours, theirs in columns.items()}
    renamed = {name: value for name, value in row.items() if name not in of_file and name not in columns}
    return renamed | {of_file[name]: row[name] for name in row if name in of_file}


def recognise(columns: Iterable[str]) -> str:
    """The format that has all its columns among `columns`.

    Raises DataError, which says what is there and what each format needs.
    """
    present = list(columns)
    for format, (needed, _) in COLUMNS.items():
        if set(needed) <= set(present):
            return format
    needs = "; ".join(f"{format}: {', '.join(needed)}" for format, (needed, _) in COLUMNS.items())
    raise DataError(f"no format fits the columns {', '.join(present) or '(none)'}. Formats need: {needs}")
