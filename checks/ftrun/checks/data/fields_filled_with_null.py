"""Tools and their calls hold nulls that belong to other tools.

Symptom: the model calls tools with parameters that they do not have, each of them null.
Cause: the file was written from a table whose columns have one shape (Arrow, parquet, `datasets`): it gives each row
the fields of all others, and fills them with null.
Fix: write `tools` and the messages' `tool_calls` as JSON text in their column, or drop the nulls where rows are made.
Source: told are parameters of a tool's schema that are null, which no schema has; and arguments that are null in each
call of a tool, and are not in calls of another, or which the schema of their tool does not name. trl#5376, oumi#2603.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import is_chat, messages_of, spread
from ftrun.checks.finding import Finding
from ftrun.checks.rows import SourceRows
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

SAMPLE = 2000


@check("DATA027", title="tools and calls hold no nulls of other tools", severity="warning", methods=("sft",))
def fields_filled_with_null(at: AtData) -> Iterator[Finding]:
    judged = [source for source in at.sources if any(is_chat(one) for one in source.examples[:1])]
    if not judged:
        raise NotApplicable("no row is a conversation")
    for source in judged:
        rows, names = _filled(source)
        if rows:
            yield Finding(
                message=f"In {len(rows)} rows of {source.label} that were looked at, tools or their calls hold nulls "
                f"that are fields of other tools: {', '.join(names[:5])}.",
                fix="Write tools and tool_calls as JSON text in the file, or drop these nulls.",
                where=Where(file=source.label, row=source.numbers[rows[0]], key=source.key),
                evidence=tuple(f"row {source.numbers[row]}" for row in rows[:5]),
            )


def _filled(source: SourceRows) -> tuple[list[int], list[str]]:
    """The examples with such nulls, and the names of the fields."""
    rows: set[int] = set()
    names: set[str] = set()
    nulls: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    given: dict[str, set[str]] = defaultdict(set)
    for index in spread(len(source.examples), SAMPLE).tolist():
        example = source.examples[index]
        for tool in example.get("tools") or ():
            found = [name for name, schema in _parameters(tool).items() if schema is None]
            if found:
                rows.add(index)
                names.update(found)
        schemas = {_name(tool): _parameters(tool) for tool in example.get("tools") or () if _is_closed(tool)}
        for tool, arguments in _calls(example):
            for name, value in arguments.items():
                if value is None and schemas.get(tool) and name not in schemas[tool]:
                    rows.add(index)
                    names.add(name)
                elif value is None:
                    nulls[tool][name].append(index)
                else:
                    given[name].add(tool)
    for tool, fields in nulls.items():
        for name, places in fields.items():
            if given[name] and tool not in given[name]:
                rows.update(places)
                names.add(name)
    return sorted(rows), sorted(names)


def _parameters(tool: Any) -> Mapping[str, Any]:
    """The parameters of a tool's schema, by name."""
    return _mapping(_mapping(_function(tool).get("parameters")).get("properties"))


def _is_closed(tool: Any) -> bool:
    """Whether the schema names every argument that its tool takes."""
    return not _mapping(_function(tool).get("parameters")).get("additionalProperties")


def _function(value: Any) -> Mapping[str, Any]:
    """The function of a tool or of a call, which some formats wrap."""
    return _mapping(_mapping(value).get("function") or value)


def _name(value: Any) -> str:
    return str(_function(value).get("name"))


def _calls(example: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The name of the tool and the arguments of each call."""
    for message in messages_of(example):
        for call in message.get("tool_calls") or ():
            yield _name(call), _mapping(_function(call).get("arguments"))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


@fields_filled_with_null.fault
def schemas_share_their_fields(world: World) -> None:
    def tool(name: str, **fields: Any) -> dict[str, Any]:
        properties = {"room": None, "city": None, **fields}
        return {"type": "function", "function": {"name": name, "parameters": {"properties": properties}}}

    _use_tools(world)
    kind = {"type": "string"}
    for row in world.rows:
        row["tools"] = [tool("look", room=kind), tool("travel", city=kind)]


@fields_filled_with_null.fault
def calls_share_their_fields(world: World) -> None:
    _use_tools(world)
    for number, row in enumerate(world.rows):
        look = number % 2 == 0
        arguments = {"room": "3" if look else None, "city": None if look else "Rome"}
        call = {
            "type": "function",
            "function": {"name": "look" if look else "travel", "arguments": arguments},
        }
        row["messages"][1:1] = [
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "content": "red"},
        ]


@fields_filled_with_null.fault
def one_tool_has_the_fields_of_all(world: World) -> None:
    _use_tools(world)
    schema = {"type": "object", "properties": {"room": {"type": "string"}}}
    for row in world.rows:
        call = {"type": "function", "function": {"name": "look", "arguments": {"room": "3", "city": None}}}
        row["messages"].insert(1, {"role": "assistant", "tool_calls": [call]})
        row["messages"].insert(2, {"role": "tool", "content": "red"})
        row["tools"] = [{"type": "function", "function": {"name": "look", "parameters": schema}}]


def _use_tools(world: World) -> None:
    world.rows = [
        {
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["completion"]},
            ]
        }
        for row in world.rows
    ]
    world.recipe["model"]["chat_template"] = "qwen3_training"
    world.recipe["training"]["max_length"] = 1024
