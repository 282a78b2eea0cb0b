"""Faults of a fourth round, from reports and blind trials: conversations and their templates."""

from __future__ import annotations

import json
from typing import Any

from tests.faults.plants import Fault, Unplanted
from tests.faults.third_material import prose_chat

from ftrun.checks.testing import World

OURS = "ours"
ASKING = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
CALLS = (
    "{% for call in m.tool_calls or [] %}{{ '<tool_call>' + call.function.name + ' ' + "
    "(call.function.arguments if call.function.arguments is string else call.function.arguments | tojson) + "
    "'</tool_call>' }}{% endfor %}"
)
TOOLS = "{% if tools %}{{ '<|im_start|>system\n' + (tools | tojson) + '<|im_end|>\n' }}{% endif %}"
THOUGHT = "<think>\nThis is about everyday things, and two sentences will do.\n</think>\n\n"


def write_template(
    world: World,
    answer: str = "{{ m.content or '' }}" + CALLS,
    *,
    tools: str = TOOLS,
    asking: str = ASKING,
) -> None:
    """Set a template in which the assistant says `answer`."""
    world.folder.mkdir(parents=True, exist_ok=True)
    (world.folder / "own.jinja").write_text(
        tools + "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
        "{% generation %}"
        + answer
        + "{{ '<|im_end|>' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}"
        "{% endif %}{{ '\n' }}{% endfor %}" + asking,
        encoding="utf-8",
    )
    world.recipe["model"]["chat_template"] = "own.jinja"


def call_tools(world: World) -> None:
    """A search before each answer."""
    query = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
    tools = [
        {"type": "function", "function": {"name": name, "description": about, "parameters": query}}
        for name, about in (("search_notes", "Search the notes."), ("search_web", "Search the web."))
    ]
    for row in world.rows:
        asked, answer = row["messages"]
        call = {"name": "search_notes", "arguments": {"query": asked["content"]}}
        row["messages"] = [
            asked,
            {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]},
            {
                "role": "tool",
                "name": "search_notes",
                "content": json.dumps({"found": answer["content"][:40]}),
            },
            answer,
        ]
        row["tools"] = tools
    world.recipe["training"]["max_length"] = 1024


def calls_of(world: World) -> list[dict[str, Any]]:
    return [row["messages"][1]["tool_calls"][0]["function"] for row in world.rows]


X501 = Fault("X501", "The template leaves the tools out.", "sft", "data", "LLaMA-Factory#5518")


@X501.planted(prose_chat, told="DATA086", at="data")
def tools_are_left_out(world: World) -> None:
    call_tools(world)
    write_template(world, tools="")


X502 = Fault(
    "X502", "The template leaves the calls out: turns are empty.", "sft", "data", "LLaMA-Factory#9107"
)


@X502.planted(prose_chat, told="DATA086", at="data")
def calls_are_left_out(world: World) -> None:
    call_tools(world)
    write_template(world, "{{ m.content or '' }}")


X503 = Fault(
    "X503", "The template cuts the thoughts off the answer that is trained.", "sft", "data", "gem#44"
)


@X503.planted(prose_chat, told="DATA086", at="data")
def thoughts_are_cut_off(world: World) -> None:
    for row in world.rows:
        row["messages"][-1]["content"] = THOUGHT + row["messages"][-1]["content"]
    write_template(world, "{{ m.content.split('</think>')[-1].strip() }}")


X504 = Fault("X504", "Reasoning has a field of its own that the template does not read.", "sft", "data", OURS)


@X504.planted(prose_chat, told="DATA086", at="data")
def reasoning_is_not_read(world: World) -> None:
    for row in world.rows:
        row["messages"][-1]["reasoning_content"] = "This is about everyday things, and two sentences will do."
    write_template(world)


X505 = Fault(
    "X505", "Arguments are JSON text, and the template encodes them again.", "sft", "data", "oumi#2599"
)


@X505.planted(prose_chat, told="DATA088", at="data")
def arguments_are_encoded_again(world: World) -> None:
    call_tools(world)
    for call in calls_of(world):
        call["arguments"] = json.dumps(call["arguments"])
    write_template(
        world,
        "{{ m.content or '' }}{% for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}",
    )


X506 = Fault("X506", "The model is asked behind a thought that no row opens.", "sft", "data", "Qwen3#1420")


@X506.planted(prose_chat, told="DATA046", at="data")
def a_thought_is_opened(world: World) -> None:
    write_template(world, asking=ASKING.replace("assistant\n", "assistant\n<think>\n"))


X507 = Fault(
    "X507", "The words that ask lack the line break of the rows, which is masked.", "sft", "data", OURS
)


@X507.planted(prose_chat, told="DATA046", at="data")
def a_line_break_is_missing(world: World) -> None:
    write_template(world, asking=ASKING.replace("assistant\n", "assistant"))


X508 = Fault("X508", "The words that ask end with a space that no row has.", "sft", "data", OURS)


@X508.planted(prose_chat, told="DATA046", at="data")
def a_space_is_added(world: World) -> None:
    write_template(world, asking=ASKING.replace("assistant\n", "assistant\n "))


X509 = Fault("X509", "Every row ends with the header of another answer.", "sft", "data", OURS)


@X509.planted(prose_chat, told="DATA046", at="data")
def every_row_asks(world: World) -> None:
    write_template(world, asking="{{ '<|im_start|>assistant\n' }}")


X510 = Fault("X510", "Calls name a tool that the row does not have.", "sft", "data", OURS)


@X510.planted(prose_chat, told="DATA087", at="data")
def tools_were_renamed(world: World) -> None:
    call_tools(world)
    for call in calls_of(world):
        call["name"] = "searchNotes"


X511 = Fault("X511", "Some arguments are Python's, not JSON.", "sft", "data", OURS)


@X511.planted(prose_chat, told="DATA087", at="data")
def arguments_are_python(world: World) -> None:
    call_tools(world)
    for number, call in enumerate(calls_of(world)):
        call["arguments"] = str(call["arguments"]) if number % 4 == 0 else json.dumps(call["arguments"])


X512 = Fault("X512", "What the tools returned is lost.", "sft", "data", OURS)


@X512.planted(prose_chat, told="DATA087", at="data")
def results_are_lost(world: World) -> None:
    call_tools(world)
    for row in world.rows:
        del row["messages"][2]


X513 = Fault("X513", "The tools stand in a column that is not read.", "sft", "data", OURS)


@X513.planted(prose_chat, told="DATA087", at="data")
def tools_are_called_functions(world: World) -> None:
    call_tools(world)
    for row in world.rows:
        row["functions"] = row.pop("tools")


X514 = Fault(
    "X514", "Calls hold nulls for arguments that their tool does not have.", "sft", "data", "oumi#2603"
)


@X514.planted(prose_chat, told="DATA027", at="data")
def arguments_of_all_tools(world: World) -> None:
    call_tools(world)
    for call in calls_of(world):
        call["arguments"] |= {"city": None, "ticker": None}


X515 = Fault("X515", "Answers that weigh 0 are trained.", "sft", "data", "axolotl#1702")


@X515.planted(prose_chat, told="DATA089", at="data")
def answers_weigh_nothing(world: World) -> None:
    for row, other in zip(world.rows, world.rows[::-1], strict=True):
        poor = {"role": "assistant", "content": other["messages"][-1]["content"], "weight": 0}
        again = {"role": "user", "content": "That is not what I asked."}
        row["messages"][1:] = [poor, again, {**row["messages"][-1], "weight": 1}]


X516 = Fault("X516", "The roles are human and gpt, of which the template trains none.", "sft", "data", OURS)


@X516.planted(prose_chat, told="DATA009", at="data")
def roles_of_another_format(world: World) -> None:
    for row in world.rows:
        for message, role in zip(row["messages"], ("human", "gpt"), strict=True):
            message["role"] = role
    write_template(world)


X517 = Fault("X517", "Calls stand in `function_call`, as OpenAI's API once gave them.", "sft", "data", OURS)


@X517.planted(prose_chat, told=("DATA004", "DATA005"), at="data")
def calls_of_the_old_kind(world: World) -> None:
    for row in world.rows:
        call = {"name": "reply", "arguments": json.dumps({"text": row["messages"][-1]["content"]})}
        row["messages"][-1] = {"role": "assistant", "content": None, "function_call": call}


X518 = Unplanted(
    Fault("X518", "A content that is null is written as `None` before its call.", "sft", "data", "oumi#2603"),
    reason="prevented",
    why="messages are read without their nulls, and what is not there is written as nothing.",
    shown_by="tests/runner/test_data_conversion.py::test_good_rows",
)
