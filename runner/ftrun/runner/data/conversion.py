"""Rows as people keep them become examples in TRL's shapes; `ftrun.schemas.formats` lists both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ftrun.runner.data.values import (
    Message,
    Row,
    read_extras,
    read_list,
    read_messages,
    read_number,
    read_optional_text,
    read_prompt,
    read_text,
    read_turn,
    read_turns,
)
from ftrun.schemas.errors import DataError

Example = dict[str, Any]


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
    return {"text": read_text(row, "text")}


def _from_prompt_completion(row: Row) -> Example:
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, str) and isinstance(completion, str):
        return {"prompt": prompt, "completion": completion}
    if not isinstance(prompt, list) and not isinstance(completion, list):
        return {"prompt": read_text(row, "prompt"), "completion": read_text(row, "completion")}
    if isinstance(prompt, str) or isinstance(completion, str):
        text, other = ("prompt", "completion") if isinstance(prompt, str) else ("completion", "prompt")
        raise DataError(
            f"column {text} is text and column {other} a list of messages: both must be of one kind"
        )
    return {
        "prompt": read_messages(row, "prompt"),
        "completion": read_messages(row, "completion"),
    } | read_extras(row)


def _from_messages(row: Row) -> Example:
    return {"messages": read_messages(row, "messages")} | read_extras(row)


def _from_sharegpt(row: Row) -> Example:
    messages = [read_turn(turn, "conversations") for turn in read_list(row, "conversations", "turns")]
    system = read_optional_text(row, "system")
    if system and messages[0] != {"role": "system", "content": system}:
        if messages[0]["role"] == "system":
            raise DataError("column conversations starts with a system turn, and column system holds another")
        messages.insert(0, {"role": "system", "content": system})
    return {"messages": messages} | read_extras(row)


def _from_prompts(row: Row) -> Example:
    prompt = row.get("prompt")
    if not isinstance(prompt, list):
        return {"prompt": read_text(row, "prompt")} | _others(row)
    return {"prompt": read_prompt(row, "prompt")} | read_extras(row) | _others(row)


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
    extras = read_extras(row) if isinstance(prompt, list) else {}
    margin = {} if row.get("margin") is None else {"margin": read_number(row, "margin")}
    return [{"prompt": prompt, "completion": side} | extras | margin for side in (chosen, rejected)]


def _lead(
    row: Row, column: str, chosen: list[Message], rejected: list[Message]
) -> tuple[list[Message], list[Message], list[Message]]:
    """The messages before the answers; a question in text is the user's, and answers may repeat it."""
    is_text = isinstance(row[column], str)
    prompt = [{"role": "user", "content": row[column]}] if is_text else read_prompt(row, column)
    system = read_optional_text(row, "system")
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
        return [read_turn(value, column)]
    if isinstance(value, list):
        return read_turns(row, column)
    return read_text(row, column)


def _divide(chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
    """What both sides begin with alike, and the rest of each, as TRL's `extract_prompt` divides them."""
    shorter = min(len(chosen), len(rejected))
    count = next((i for i in range(shorter) if chosen[i] != rejected[i]), max(shorter - 1, 0))
    if isinstance(chosen, str) and chosen[count - 1 : count] == " ":
        count -= 1
    return chosen[:count], chosen[count:], rejected[count:]


def _from_alpaca_to_chat(row: Row) -> Example:
    system = read_optional_text(row, "system")
    prompt = [{"role": "system", "content": system}] if system else []
    for question, answer in _history(row):
        prompt += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    question, extra = read_text(row, "instruction"), read_optional_text(row, "input")
    prompt.append({"role": "user", "content": f"{question}\n{extra}" if extra else question})
    return {"prompt": prompt, "completion": [{"role": "assistant", "content": read_text(row, "output")}]}


def _from_alpaca_to_text(row: Row) -> Example:
    # The headings are those of Stanford Alpaca (tatsu-lab/stanford_alpaca), which models tuned on it expect.
    system, extra = read_optional_text(row, "system"), read_optional_text(row, "input")
    parts = [f"{system}\n\n"] if system else []
    for question, answer in _history(row):
        parts.append(f"### Instruction:\n{question}\n\n### Response:\n{answer}\n\n")
    parts.append(f"### Instruction:\n{read_text(row, 'instruction')}\n\n")
    parts += [f"### Input:\n{extra}\n\n"] if extra else []
    return {"prompt": f"{''.join(parts)}### Response:\n", "completion": read_text(row, "output")}


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
