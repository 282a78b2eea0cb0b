"""Formats of training rows, told by their columns.

format              columns                          becomes, in TRL's shapes
text                text                             {text}
prompt_completion   prompt, completion               {prompt, completion}, texts or lists of messages
messages            messages [, tools]               {messages [, tools]}
sharegpt            conversations [, system, tools]  {messages [, tools]}
alpaca              instruction, output [, input]    {prompt, completion}, as messages where there is a
                                                     chat template, else in the layout of Stanford Alpaca
preference          chosen, rejected [, prompt]      a pair of {prompt, completion}, one for each side
prompts             prompt                           {prompt}, a text or a list of messages

A list of messages may be written as ShareGPT writes it, and `conversations` may stand for `prompt` in a
preference. What chosen and rejected begin with alike is the prompt, where no column holds it.
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
    "preference": (
        ("chosen", "rejected"),
        ("prompt", "conversations", "system", "margin", "tools", "chat_template_kwargs"),
    ),
    "prompts": (("prompt",), ("tools", "chat_template_kwargs")),
}
"""The columns that each format needs and those that it may have, in the order in which they are tried."""

FORMATS: Mapping[str, tuple[str, ...]] = {
    "sft": ("messages", "prompt_completion", "alpaca", "sharegpt", "text"),
    "reward": ("preference",),
    "dpo": ("preference",),
    "ppo": ("prompts",),
}
"""The formats that each method trains on."""


def rename(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The row with its columns under the format's names. `columns` maps the format's name to the file's."""
    of_file = {theirs: ours for ours, theirs in columns.items()}
    renamed = {name: value for name, value in row.items() if name not in of_file and name not in columns}
    return renamed | {of_file[name]: row[name] for name in row if name in of_file}


def recognise(columns: Iterable[str], method: str) -> str:
    """The format of a method that has all its columns among `columns`.

    Raises DataError, which says what is there and what each format needs.
    """
    present = list(columns)
    for format in FORMATS[method]:
        if set(COLUMNS[format][0]) <= set(present):
            return format
    raise DataError(
        f"no format fits the columns {', '.join(present) or '(none)'}. Formats need: {describe_needs(method)}"
    )


def describe_needs(method: str) -> str:
    """The columns that each format of a method needs, in one line."""
    return "; ".join(f"{format}: {', '.join(COLUMNS[format][0])}" for format in FORMATS[method])
