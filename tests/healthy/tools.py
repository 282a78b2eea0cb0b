"""Tools, calls and reasoning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.healthy.templates import use_template
from tests.healthy.worlds import healthy, questions, sft

from ftrun.checks.testing import World

Row = dict[str, Any]


def _tool(name: str, properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": required}
    function = {"name": name, "description": f"To {name} in the house.", "parameters": parameters}
    return {"type": "function", "function": function}


LOOK = _tool("look", {"room": {"type": "string", "description": "Its number."}}, ["room"])
PAINT = _tool(
    "paint",
    {
        "where": {
            "type": "object",
            "properties": {
                "room": {"type": "string"},
                "walls": {"type": "array", "items": {"type": "string", "enum": ["north", "south"]}},
            },
        },
        "colour": {"type": ["string", "null"], "default": None},
    },
    ["where"],
)


def _call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def _row(number: int, asked: str, answer: str, calls: list[dict[str, Any]]) -> Row:
    results = [
        {"role": "tool", "name": call["function"]["name"], "content": json.dumps({"seen": number})}
        for call in calls
    ]
    return {
        "messages": [
            {"role": "user", "content": asked},
            {"role": "assistant", "content": "", "tool_calls": calls},
            *results,
            {"role": "assistant", "content": answer},
        ],
        "tools": [LOOK, PAINT],
    }


def _rows(seed: int, *, parallel: bool = False) -> list[Row]:
    rows = []
    for number, (asked, answer) in enumerate(questions(seed, 24)):
        calls = [_call("look", {"room": str(number)})]
        if parallel:
            calls.append(_call("paint", {"where": {"room": str(number), "walls": ["north"]}, "colour": None}))
        rows.append(_row(number, asked, answer, calls))
    return rows


@healthy
def tool_calls(folder: Path, seed: int) -> World:
    """The template of `tiny`, which writes calls as JSON."""
    return sft(folder, seed, _rows(seed), max_length=2048)


@healthy
def parallel_calls_with_nested_arguments(folder: Path, seed: int) -> World:
    world = sft(folder, seed, _rows(seed, parallel=True), max_length=2048)
    use_template(world, seed, "qwen3")
    return world


@healthy
def tools_never_called(folder: Path, seed: int) -> World:
    """Tools are offered, and the right answer needs none."""
    rows = [
        {
            "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}],
            "tools": [LOOK, PAINT],
        }
        for asked, answer in questions(seed, 24)
    ]
    world = sft(folder, seed, rows, max_length=2048)
    use_template(world, seed, "qwen2_5")
    return world


@healthy
def some_rows_have_tools(folder: Path, seed: int) -> World:
    rows = _rows(seed)[:12]
    rows += [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}
        for asked, answer in questions(seed + 100, 24)
    ]
    return sft(folder, seed, rows, max_length=2048)


@healthy
def tools_as_json_text(folder: Path, seed: int) -> World:
    """Schemas as text in their column, which keeps tables from filling them with nulls."""
    rows = [{**row, "tools": json.dumps(row["tools"])} for row in _rows(seed)]
    return sft(folder, seed, rows, max_length=2048)


@healthy
def the_call_is_the_answer(folder: Path, seed: int) -> World:
    """Conversations end with a call; its result is not known yet."""
    rows = [{**row, "messages": row["messages"][:2]} for row in _rows(seed)]
    world = sft(folder, seed, rows, max_length=2048)
    use_template(world, seed, "qwen3")
    return world


@healthy
def sharegpt_tools(folder: Path, seed: int) -> World:
    rows = [
        {
            "conversations": [
                {"from": "human", "value": asked},
                {
                    "from": "function_call",
                    "value": json.dumps({"name": "look", "arguments": {"room": str(n)}}),
                },
                {"from": "observation", "value": json.dumps({"seen": answer})},
                {"from": "gpt", "value": answer},
            ],
            "tools": json.dumps([LOOK]),
        }
        for n, (asked, answer) in enumerate(questions(seed, 24))
    ]
    return sft(folder, seed, rows, max_length=2048)


@healthy
def reasoning_in_the_text(folder: Path, seed: int) -> World:
    """Traces between tags, part of the answer."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": asked},
                {"role": "assistant", "content": f"<think>\nLet me see: {answer}\n</think>\n\n{answer}"},
            ]
        }
        for asked, answer in questions(seed, 24)
    ]
    world = sft(folder, seed, rows, max_length=1024)
    use_template(world, seed, "qwen3")
    return world


@healthy
def reasoning_in_its_own_field(folder: Path, seed: int) -> World:
    rows = [
        {
            "messages": [
                {"role": "user", "content": asked},
                {"role": "assistant", "reasoning_content": f"Let me see: {asked}", "content": answer},
            ]
        }
        for asked, answer in questions(seed, 24)
    ]
    world = sft(folder, seed, rows, max_length=1024)
    use_template(world, seed, "qwen3")
    return world


@healthy
def thinking_switched_off(folder: Path, seed: int) -> World:
    """Settings of the template in the rows."""
    rows = [
        {
            "prompt": [{"role": "user", "content": asked}],
            "completion": [{"role": "assistant", "content": answer}],
            "chat_template_kwargs": {"enable_thinking": False},
        }
        for asked, answer in questions(seed, 24)
    ]
    world = sft(folder, seed, rows, max_length=1024)
    use_template(world, seed, "qwen3")
    return world
