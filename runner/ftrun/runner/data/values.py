"""What the columns of a row hold: text, numbers, messages, tools.

Each function reads one column, and raises DataError, with the column and the reason, where it holds something else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ftrun.schemas.errors import DataError

Row = Mapping[str, Any]
Message = dict[str, Any]

SHAREGPT_ROLES: Mapping[str, str] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}


def read_text(row: Row, column: str) -> str:
    """The text of a column, which must be there."""
    value = row.get(column)
    if isinstance(value, str):
        return value
    if value is None:
        raise _absent(row, column)
    raise DataError(f"column {column} must be text, found {type(value).__name__}")


def read_optional_text(row: Row, column: str) -> str:
    """The text of a column that may be absent; empty where it holds nothing but white space."""
    text = "" if row.get(column) is None else read_text(row, column)
    return text if text.strip() else ""


def _absent(row: Row, column: str) -> DataError:
    return DataError(f"column {column} is empty" if column in row else f"has no column {column}")


def read_number(row: Row, column: str) -> float:
    """The number in a column that is there."""
    value = row[column]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"column {column} must be a number, found {type(value).__name__}")
    return float(value)


def read_list(row: Row, column: str, of: str) -> Sequence[Any]:
    """The list in a column, not empty; it may be written as JSON text, as CSV must. `of` names its entries."""
    value = row.get(column)
    if isinstance(value, str) and value.strip():
        value = _parse_json(value, column)
    if value is None or value == "":
        raise _absent(row, column)
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        found = "an empty list" if value == [] else type(value).__name__
        raise DataError(f"column {column} must be a list of {of}, found {found}")
    return value


def _parse_json(text: str, column: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"column {column} is text that is not JSON: {error}") from error


def read_messages(row: Row, column: str) -> list[Message]:
    """Messages with `role` and `content`."""
    return [_read_message(message, column) for message in read_list(row, column, "messages")]


def read_prompt(row: Row, column: str) -> list[Message]:
    """Messages, or ShareGPT's turns, of which the last one asks for an answer."""
    messages = read_turns(row, column)
    if messages[-1]["role"] == "assistant":
        raise DataError(f"column {column} ends with a turn of the assistant, so nothing is asked")
    return messages


def read_turns(row: Row, column: str) -> list[Message]:
    """Messages, written as such or as ShareGPT's turns."""
    turns = read_list(row, column, "messages")
    if isinstance(turns[0], Mapping) and "role" not in turns[0]:
        return [read_turn(turn, column) for turn in turns]
    return [_read_message(turn, column) for turn in turns]


def _read_message(message: Any, column: str) -> Message:
    """The message without its nulls, as `apply_chat_template` drops them."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise DataError(f"column {column} holds a message without a role")
    content = message.get("content")
    if content is None and not message.get("tool_calls"):
        hint = "; write its function_call as tool_calls" if message.get("function_call") else ""
        raise DataError(f"column {column} holds a message of {message['role']} without content{hint}")
    if isinstance(content, list):
        for part in content:
            if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
                kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
                raise DataError(
                    f"column {column} holds a part of type {kind} in a message; ftrun trains on text alone"
                )
    elif not isinstance(content, str) and content is not None:
        found = type(content).__name__
        raise DataError(
            f"column {column} holds a message of {message['role']} whose content is no text but {found}"
        )
    return {key: part for key, part in message.items() if part is not None}


def read_turn(turn: Any, column: str) -> Message:
    """One of ShareGPT's turns, `{from, value}`, as a message."""
    if not isinstance(turn, Mapping):
        raise DataError(f"column {column} holds a turn that is not an object")
    speaker, content = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
    role = SHAREGPT_ROLES.get(str(speaker))
    if role is None:
        raise DataError(
            f"column {column} holds a turn from {speaker!r}; known are {', '.join(SHAREGPT_ROLES)}"
        )
    if not isinstance(content, str):
        raise DataError(f"column {column} holds a turn from {speaker!r} without text")
    if speaker == "function_call":
        return {"role": role, "tool_calls": _read_tool_calls(content, column)}
    return {"role": role, "content": content}


def _read_tool_calls(text: str, column: str) -> list[dict[str, Any]]:
    """The calls in a turn from `function_call`: one {name, arguments} as JSON, or a list of them."""
    calls = _parse_json(text, column)
    calls = calls if isinstance(calls, list) else [calls]
    if not calls or not all(
        isinstance(call, Mapping) and isinstance(call.get("name"), str) for call in calls
    ):
        raise DataError(f"column {column} holds a turn from 'function_call' that names no function")
    return [
        {"type": "function", "function": {"name": call["name"], "arguments": call.get("arguments") or {}}}
        for call in calls
    ]


def read_extras(row: Row) -> dict[str, Any]:
    """The tools of a row and its settings for the chat template, where it has any."""
    tools, settings = (_read_json(row, column) for column in ("tools", "chat_template_kwargs"))
    if tools and not (isinstance(tools, list) and all(isinstance(tool, Mapping) for tool in tools)):
        raise DataError("column tools must be a list of function schemas")
    if settings and not isinstance(settings, Mapping):
        raise DataError("column chat_template_kwargs must be a mapping")
    # Llama's templates write their boilerplate for an empty list of tools too.
    extras = {"tools": tools, "chat_template_kwargs": settings}
    return {column: value for column, value in extras.items() if value}


def _read_json(row: Row, column: str) -> Any:
    value = row.get(column)
    if isinstance(value, str):
        return _parse_json(value, column) if value.strip() else None
    return value
