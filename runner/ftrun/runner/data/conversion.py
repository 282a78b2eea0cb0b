"""Rows as people keep them become examples in TRL's shapes; `ftrun.schemas.formats` lists both."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ftrun.schemas.errors import DataError

Row = Mapping[str, Any]
Example = dict[str, Any]
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


def make_converter(format: str, has_template: bool) -> Callable[[Row], list[Example]]:
    """A function that turns one renamed row into one of TRL's shapes: a pair of answers into two of them.

    It raises DataError, with the column and the reason, for a row that the format cannot read.
    """
    converters: Mapping[str, Callable[[Row], Example]] = {
        "text": _from_text,
        "prompt_completion": _from_prompt_completion,
        "messages": _from_messages,
        "sharegpt": _from_sharegpt,
        "alpaca": _from_alpaca_to_chat if has_template else _from_alpaca_to_text,
        "prompts": _from_prompts,
    }
    if format == "preference":
        return _from_preference
    convert = converters[format]
    return lambda row: [convert(row)]


def _from_text(row: Row) -> Example:
    return {"text": _text(row, "text")}


def _from_prompt_completion(row: Row) -> Example:
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, str) and isinstance(completion, str):
        return {"prompt": prompt, "completion": completion}
    if not isinstance(prompt, list) and not isinstance(completion, list):
        return {"prompt": _text(row, "prompt"), "completion": _text(row, "completion")}
    if isinstance(prompt, str) or isinstance(completion, str):
        text, other = ("prompt", "completion") if isinstance(prompt, str) else ("completion", "prompt")
        raise DataError(
            f"column {text} is text and column {other} a list of messages: both must be of one kind"
        )
    return {"prompt": _messages(row, "prompt"), "completion": _messages(row, "completion")} | _extras(row)


def _from_messages(row: Row) -> Example:
    return {"messages": _messages(row, "messages")} | _extras(row)


def _from_sharegpt(row: Row) -> Example:
    messages = [_from_turn(turn, "conversations") for turn in _list(row, "conversations", "turns")]
    system = _optional_text(row, "system")
    if system and messages[0] != {"role": "system", "content": system}:
        if messages[0]["role"] == "system":
            raise DataError("column conversations starts with a system turn, and column system holds another")
        messages.insert(0, {"role": "system", "content": system})
    return {"messages": messages} | _extras(row)


def _from_prompts(row: Row) -> Example:
    prompt = row.get("prompt")
    if not isinstance(prompt, list):
        return {"prompt": _text(row, "prompt")} | _others(row)
    return {"prompt": _asked(row, "prompt")} | _extras(row) | _others(row)


def _others(row: Row) -> Example:
    """The columns that no format knows, which a reward may need: the expected answer, for example."""
    known = {"prompt", "tools", "chat_template_kwargs"}
    return {"columns": {name: value for name, value in row.items() if name not in known}}


def _from_preference(row: Row) -> list[Example]:
    """The two sides of a pair, the chosen one first, each as prompt and completion."""
    chosen, rejected = (_answer(row, side) for side in ("chosen", "rejected"))
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise DataError("one of the columns chosen and rejected is text, the other a list of messages")
    column = "prompt" if row.get("prompt") is not None else "conversations"
    if row.get(column) is None:
        prompt, chosen, rejected = _divide(chosen, rejected)
    elif isinstance(chosen, str) and isinstance(row[column], str):
        prompt = row[column]
    else:
        chosen, rejected = (
            [{"role": "assistant", "content": side}] if isinstance(side, str) else side
            for side in (chosen, rejected)
        )
        prompt, chosen, rejected = _lead(row, column, chosen, rejected)
    extras = _extras(row) if isinstance(prompt, list) else {}
    margin = {} if row.get("margin") is None else {"margin": _number(row, "margin")}
    return [{"prompt": prompt, "completion": side} | extras | margin for side in (chosen, rejected)]


def _lead(
    row: Row, column: str, chosen: list[Message], rejected: list[Message]
) -> tuple[list[Message], list[Message], list[Message]]:
    """The messages before the answers; a question in text is the user's, and answers may repeat it."""
    is_text = isinstance(row[column], str)
    prompt = [{"role": "user", "content": row[column]}] if is_text else _asked(row, column)
    system = _optional_text(row, "system")
    if system and prompt[0]["role"] != "system":
        prompt.insert(0, {"role": "system", "content": system})
    for start in range(len(prompt)):
        # Some data sets give the whole conversation on both sides beside the prompt, or its last turn.
        count = len(prompt) - start
        if chosen[:count] == rejected[:count] == prompt[start:]:
            return prompt, chosen[count:], rejected[count:]
    return prompt, chosen, rejected


def _answer(row: Row, column: str) -> str | list[Message]:
    value = row.get(column)
    if isinstance(value, Mapping):
        return [_from_turn(value, column)]
    if isinstance(value, list):
        return _turns(row, column)
    return _text(row, column)


def _divide(chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
    """What both sides begin with alike, and the rest of each, as TRL's `extract_prompt` divides them."""
    shorter = min(len(chosen), len(rejected))
    count = next((i for i in range(shorter) if chosen[i] != rejected[i]), max(shorter - 1, 0))
    if isinstance(chosen, str) and chosen[count - 1 : count] == " ":
        count -= 1
    return chosen[:count], chosen[count:], rejected[count:]


def _asked(row: Row, column: str) -> list[Message]:
    messages = _turns(row, column)
    if messages[-1]["role"] == "assistant":
        raise DataError(f"column {column} ends with a turn of the assistant, so nothing is asked")
    return messages


def _turns(row: Row, column: str) -> list[Message]:
    """Messages, written as such or as ShareGPT's turns."""
    turns = _list(row, column, "messages")
    if isinstance(turns[0], Mapping) and "role" not in turns[0]:
        return [_from_turn(turn, column) for turn in turns]
    return [_from_message(turn, column) for turn in turns]


def _number(row: Row, column: str) -> float:
    value = row[column]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"column {column} must be a number, found {type(value).__name__}")
    return float(value)


def _from_alpaca_to_chat(row: Row) -> Example:
    system = _optional_text(row, "system")
    prompt = [{"role": "system", "content": system}] if system else []
    for question, answer in _history(row):
        prompt += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    question, extra = _text(row, "instruction"), _optional_text(row, "input")
    prompt.append({"role": "user", "content": f"{question}\n{extra}" if extra else question})
    return {"prompt": prompt, "completion": [{"role": "assistant", "content": _text(row, "output")}]}


def _from_alpaca_to_text(row: Row) -> Example:
    # The headings are those of Stanford Alpaca (tatsu-lab/stanford_alpaca), which models tuned on it expect.
    system, extra = _optional_text(row, "system"), _optional_text(row, "input")
    parts = [f"{system}\n\n"] if system else []
    for question, answer in _history(row):
        parts.append(f"### Instruction:\n{question}\n\n### Response:\n{answer}\n\n")
    parts.append(f"### Instruction:\n{_text(row, 'instruction')}\n\n")
    parts += [f"### Input:\n{extra}\n\n"] if extra else []
    return {"prompt": f"{''.join(parts)}### Response:\n", "completion": _text(row, "output")}


def _history(row: Row) -> list[tuple[str, str]]:
    pairs = row.get("history") or ()
    if not isinstance(pairs, Sequence) or isinstance(pairs, str):
        raise DataError("column history must be a list of pairs of question and answer")
    for pair in pairs:
        if (
            not isinstance(pair, Sequence)
            or len(pair) != 2
            or not all(isinstance(part, str) for part in pair)
        ):
            raise DataError("column history holds something else than a pair of question and answer")
    return [(question, answer) for question, answer in pairs]


def _text(row: Row, column: str) -> str:
    value = row.get(column)
    if isinstance(value, str):
        return value
    if value is None:
        raise DataError(f"column {column} is empty" if column in row else f"has no column {column}")
    raise DataError(f"column {column} must be text, found {type(value).__name__}")


def _optional_text(row: Row, column: str) -> str:
    """The text of a column that may be absent; empty where it holds nothing but white space."""
    text = "" if row.get(column) is None else _text(row, column)
    return text if text.strip() else ""


def _list(row: Row, column: str, of: str) -> Sequence[Any]:
    """The list in a column, which may be written as JSON text, as CSV must."""
    value = row.get(column)
    if isinstance(value, str) and value.strip():
        value = _from_json(value, column)
    if value is None or value == "":
        raise DataError(f"column {column} is empty" if column in row else f"has no column {column}")
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        found = "an empty list" if value == [] else type(value).__name__
        raise DataError(f"column {column} must be a list of {of}, found {found}")
    return value


def _from_json(text: str, column: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"column {column} is text that is not JSON: {error}") from error


def _messages(row: Row, column: str) -> list[Message]:
    return [_from_message(message, column) for message in _list(row, column, "messages")]


def _from_message(message: Any, column: str) -> Message:
    """The message without its nulls, as `apply_chat_template` drops them."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise DataError(f"column {column} holds a message without a role")
    content = message.get("content")
    if content is None and not message.get("tool_calls"):
        raise DataError(f"column {column} holds a message of {message['role']} without content")
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


def _extras(row: Row) -> Example:
    """The tools of a row and its settings for the chat template, where it has any."""
    tools, settings = (_parsed(row, column) for column in ("tools", "chat_template_kwargs"))
    if tools and not (isinstance(tools, list) and all(isinstance(tool, Mapping) for tool in tools)):
        raise DataError("column tools must be a list of function schemas")
    if settings and not isinstance(settings, Mapping):
        raise DataError("column chat_template_kwargs must be a mapping")
    # Llama's templates write their boilerplate for an empty list of tools too.
    extras = {"tools": tools, "chat_template_kwargs": settings}
    return {column: value for column, value in extras.items() if value}


def _parsed(row: Row, column: str) -> Any:
    value = row.get(column)
    if isinstance(value, str):
        return _from_json(value, column) if value.strip() else None
    return value


def _from_turn(turn: Any, column: str) -> Message:
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
        return {"role": role, "tool_calls": _tool_calls(content)}
    return {"role": role, "content": content}


def _tool_calls(text: str) -> list[dict[str, Any]]:
    """The calls in a turn from `function_call`: one {name, arguments} as JSON, or a list of them."""
    calls = _from_json(text, "conversations")
    calls = calls if isinstance(calls, list) else [calls]
    if not calls or not all(
        isinstance(call, Mapping) and isinstance(call.get("name"), str) for call in calls
    ):
        raise DataError("column conversations holds a turn from 'function_call' that names no function")
    return [
        {"type": "function", "function": {"name": call["name"], "arguments": call.get("arguments") or {}}}
        for call in calls
    ]
