"""Rows as people keep them become examples in TRL's shapes; `ftrun.schemas.formats` lists both."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ftrun.schemas.errors import DataError

Row = Mapping[str, Any]
Example = dict[str, Any]

SHAREGPT_ROLES: Mapping[str, str] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_call": "assistant",
}


def make_converter(format: str, has_template: bool) -> Callable[[Row], Example]:
    """A function that turns one renamed row into one of TRL's shapes.

    It raises DataError, with the reason, for a row that the format cannot read.
    """
    converters: Mapping[str, Callable[[Row], Example]] = {
        "text": _from_text,
        "prompt_completion": _from_prompt_completion,
        "messages": _from_messages,
        "sharegpt": _from_sharegpt,
        "alpaca": _from_alpaca_to_chat if has_template else _from_alpaca_to_text,
    }
    return converters[format]


def _text(row: Row, column: str) -> str:
    value = row.get(column)
    if value is None:
        raise DataError(f"column {column} is empty" if column in row else f"has no column {column}")
    if not isinstance(value, str):
        raise DataError(f"column {column} must be text, found {type(value).__name__}")
    return value


def _from_text(row: Row) -> Example:
    return {"text": _text(row, "text")}


def _from_prompt_completion(row: Row) -> Example:
    if isinstance(row.get("prompt"), list) or isinstance(row.get("completion"), list):
        example: Example = {
            "prompt": _messages(row.get("prompt"), "prompt"),
            "completion": _messages(row.get("completion"), "completion"),
        }
        return example | _extras(row)
    return {"prompt": _text(row, "prompt"), "completion": _text(row, "completion")}


def _from_messages(row: Row) -> Example:
    return {"messages": _messages(row.get("messages"), "messages")} | _extras(row)


def _messages(value: Any, column: str) -> list[dict[str, Any]]:
    if isinstance(value, str):
        value = _from_json(value, column)
    if not isinstance(value, Sequence) or not value:
        raise DataError(f"column {column} must be a list of messages")
    for message in value:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise DataError(f"column {column} holds a message without a role")
        if message.get("content") is None and not message.get("tool_calls"):
            raise DataError(f"column {column} holds a message of {message['role']} without content")
    return [{key: part for key, part in message.items() if part is not None} for message in value]


def _from_json(text: str, column: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"column {column} is text that is not JSON: {error}") from error


def _extras(row: Row) -> Example:
    tools, kwargs = row.get("tools"), row.get("chat_template_kwargs")
    if isinstance(tools, str):
        tools = _from_json(tools, "tools") if tools.strip() else None
    extras: Example = {}
    if tools:
        extras["tools"] = tools
    if kwargs:
        extras["chat_template_kwargs"] = kwargs
    return extras


def _from_sharegpt(row: Row) -> Example:
    turns = row.get("conversations")
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise DataError("column conversations must be a list of turns")
    messages = [_sharegpt_message(turn) for turn in turns]
    if isinstance(row.get("system"), str) and row["system"].strip():
        messages.insert(0, {"role": "system", "content": row["system"]})
    return {"messages": messages} | _extras(row)


def _sharegpt_message(turn: Any) -> dict[str, Any]:
    if not isinstance(turn, Mapping):
        raise DataError("column conversations holds a turn that is not an object")
    speaker, content = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
    role = SHAREGPT_ROLES.get(str(speaker))
    if role is None:
        known = ", ".join(sorted(SHAREGPT_ROLES))
        raise DataError(f"column conversations holds a turn from {speaker!r}; known are {known}")
    if not isinstance(content, str):
        raise DataError(f"column conversations holds a turn from {speaker!r} without text")
    return {"role": role, "content": content}


def _alpaca_question(row: Row) -> str:
    extra = row.get("input")
    question = _text(row, "instruction")
    return f"{question}\n{extra}" if isinstance(extra, str) and extra.strip() else question


def _from_alpaca_to_chat(row: Row) -> Example:
    prompt: list[dict[str, Any]] = []
    if isinstance(row.get("system"), str) and row["system"].strip():
        prompt.append({"role": "system", "content": row["system"]})
    for question, answer in row.get("history") or ():
        prompt += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    prompt.append({"role": "user", "content": _alpaca_question(row)})
    return {"prompt": prompt, "completion": [{"role": "assistant", "content": _text(row, "output")}]}


def _from_alpaca_to_text(row: Row) -> Example:
    # The headings are those of Stanford Alpaca (tatsu-lab/stanford_alpaca), which models tuned on it expect.
    extra = row.get("input")
    prompt = f"### Instruction:\n{_text(row, 'instruction')}\n\n"
    if isinstance(extra, str) and extra.strip():
        prompt += f"### Input:\n{extra}\n\n"
    return {"prompt": f"{prompt}### Response:\n", "completion": _text(row, "output")}
