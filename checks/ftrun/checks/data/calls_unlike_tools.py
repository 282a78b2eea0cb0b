"""Calls of tools cannot work: they name no tool of their row, cannot be read, or nothing is returned to them.

Symptom: whoever runs the model's calls gets an unknown tool or text that is not JSON; or the model tells results that
it has not waited for.
Cause: tools were renamed in one place; arguments were written as Python writes a mapping; messages of the role `tool`
were lost in the export; or the tools stand in a column that is not read.
Fix: correct the calls where the rows are made; name the column of the tools under `columns: {tools: …}`.
Prevention: read the calls of a file back before training, with what will run them.
Source: calls are held against the tools of their row and against JSON: more than 5 of those looked at, and 2 %.
Arguments that do not begin like JSON are text that a tool takes as it is. A call is unanswered where the assistant goes
on without a message of anybody else: half of the conversations with calls that are not their end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import clip, messages_of, spread, texts_of
from ftrun.checks.exchanges import FEW
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.rows import SourceRows
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

SAMPLE = 2000
SHARE, HALF = 0.02, 0.5
DEFINITIONS = (
    "functions",
    "function_definitions",
    "function_schemas",
    "available_functions",
    "available_tools",
    "tool_definitions",
    "tool_schemas",
)
"""What data sets call a column of tools, besides `tools`."""


@dataclass(frozen=True)
class Call:
    """A call, and the example that it stands in."""

    example: int
    name: str
    arguments: Any


@check("DATA087", title="calls fit the tools of their rows", severity="warning", methods=("sft",))
def calls_unlike_tools(at: AtData) -> Iterator[Finding]:
    read = [(source, _read(source)) for source in at.sources]
    if not any(calls for _, calls in read):
        raise NotApplicable("no row calls a tool")
    for source, calls in read:
        if not calls:
            continue
        strange = [call for call in calls if not _is_known(source.examples[call.example], call.name)]
        if _is_much(strange, calls):
            yield _tell(
                source,
                strange[0],
                f"{len(strange)} of {len(calls)} calls in {source.label} that were looked at name no tool of their "
                f"row, such as {strange[0].name}.",
                "Call tools by the names that they have in the row's tools.",
            )
        broken = [call for call in calls if _is_broken(call.arguments)]
        if _is_much(broken, calls):
            yield _tell(
                source,
                broken[0],
                f"The arguments of {len(broken)} of {len(calls)} calls in {source.label} that were looked at begin "
                f"like JSON and are none: {clip(broken[0].arguments, 60)}.",
                "Write the arguments as an object, or as JSON text.",
            )
        yield from _judge_results(source, calls)
        yield from _judge_definitions(at, source, calls)


def _is_much(wrong: list[Call], calls: list[Call]) -> bool:
    return len(wrong) > FEW and len(wrong) >= SHARE * len(calls)


def _tell(source: SourceRows, call: Call, message: str, fix: str) -> Finding:
    place = Where(file=source.label, row=source.numbers[call.example], key=source.key)
    return Finding(message=message, fix=fix, where=place)


def _judge_results(source: SourceRows, calls: list[Call]) -> Iterator[Finding]:
    """Conversations in which the assistant answers behind its call without any other turn."""
    followed = {
        call.example: after for call in calls if (after := _after_calls(source.examples[call.example]))
    }
    alone = [example for example, roles in followed.items() if roles == {"assistant"}]
    if len(alone) > FEW and len(alone) > HALF * len(followed):
        yield Finding(
            message=f"In {len(alone)} of {len(followed)} conversations of {source.label} with calls that were looked "
            "at the assistant goes on behind its calls, and nothing is returned to it.",
            fix="Put a message of the role `tool`, with what the call returned, behind each call.",
            where=Where(file=source.label, row=source.numbers[alone[0]], key=source.key),
        )


def _after_calls(example: Mapping[str, Any]) -> set[str]:
    """The roles of the turns that follow a call and call nothing themselves."""
    messages = messages_of(example)
    return {
        after["role"]
        for before, after in pairwise(messages)
        if before.get("tool_calls") and not after.get("tool_calls")
    }


def _judge_definitions(at: AtData, source: SourceRows, calls: list[Call]) -> Iterator[Finding]:
    """A column of tools that is not read, while no row that calls has tools."""
    names = [name for name in source.columns if name.lower() in DEFINITIONS]
    columns = dict(at.source(source.key).columns)
    if (
        not names
        or names[0] in columns.values()
        or any(source.examples[one.example].get("tools") for one in calls)
    ):
        return
    yield Finding(
        message=f"{source.label} calls tools, and its column {names[0]} is not read: the model learns to call what it "
        "is not shown.",
        fix=f"Write `columns: {{tools: {names[0]}}}`.",
        where=at.where(f"{source.key}.columns"),
        patch=Patch(f"{source.key}.columns", {**columns, "tools": names[0]}),
    )


def _read(source: SourceRows) -> list[Call]:
    return [
        Call(example, inner["name"], inner.get("arguments"))
        for example in spread(len(source.examples), SAMPLE).tolist()
        for message in messages_of(source.examples[example])
        for call in message.get("tool_calls") or ()
        for inner in (_function(call),)
        if isinstance(inner.get("name"), str)
    ]


def _function(value: Any) -> Mapping[str, Any]:
    """The function of a tool or of a call, which some formats wrap."""
    inner = value.get("function", value) if isinstance(value, Mapping) else {}
    return inner if isinstance(inner, Mapping) else {}


def _is_known(example: Mapping[str, Any], name: str) -> bool:
    """Whether the row has no tools to hold the name against, or has one of that name, or speaks of it."""
    tools = [_function(tool).get("name") for tool in example.get("tools") or ()]
    if not tools or None in tools or {name, name.rpartition(".")[2]} & set(tools):
        return True
    return any(
        name in text for one in messages_of(example) if one["role"] != "assistant" for text in texts_of(one)
    )


def _is_broken(arguments: Any) -> bool:
    if not isinstance(arguments, str) or not arguments.lstrip().startswith(("{", "[")):
        return False
    try:
        json.loads(arguments)
    except (ValueError, RecursionError):
        return True
    return False


def _call_tools(world: World) -> None:
    """Conversations with a call and its result."""
    function = {"name": "look", "parameters": {"type": "object", "properties": {"room": {"type": "string"}}}}
    world.rows = [
        {
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [
                        {"type": "function", "function": {"name": "look", "arguments": {"room": str(number)}}}
                    ],
                },
                {"role": "tool", "content": "It is there."},
                {"role": "assistant", "content": row["completion"]},
            ],
            "tools": [{"type": "function", "function": function}],
        }
        for number, row in enumerate(world.rows)
    ]
    world.recipe["training"]["max_length"] = 1024


@calls_unlike_tools.fault
def tools_are_called_otherwise(world: World) -> None:
    _call_tools(world)
    for row in world.rows:
        row["messages"][1]["tool_calls"][0]["function"]["name"] = "lookAt"


@calls_unlike_tools.fault
def arguments_are_python(world: World) -> None:
    _call_tools(world)
    for row in world.rows:
        function = row["messages"][1]["tool_calls"][0]["function"]
        function["arguments"] = str(function["arguments"])


@calls_unlike_tools.fault
def results_are_lost(world: World) -> None:
    _call_tools(world)
    for row in world.rows:
        del row["messages"][2]


@calls_unlike_tools.fault
def tools_stand_in_another_column(world: World) -> None:
    _call_tools(world)
    for row in world.rows:
        row["functions"] = row.pop("tools")
