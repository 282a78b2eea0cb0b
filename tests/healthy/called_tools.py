"""Calls of tools, thoughts and marks that look wrong and are right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.healthy.templates import use_template
from tests.healthy.worlds import chats, healthy, questions, sft

from ftrun.checks.testing import World

Message = dict[str, Any]
LOOK: Message = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Look into a room.",
        "parameters": {"type": "object", "properties": {"room": {"type": "string"}}, "required": ["room"]},
    },
}


def _call(name: str, arguments: Any) -> Message:
    calls = [{"type": "function", "function": {"name": name, "arguments": arguments}}]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def _ask(asked: str) -> Message:
    return {"role": "user", "content": asked}


def _answer(answer: str, **more: Any) -> Message:
    return {"role": "assistant", "content": answer, **more}


def _return(seen: Any) -> Message:
    return {"role": "tool", "content": json.dumps({"seen": seen})}


def _use(world: World, answer: str, asking: str = "{{ '<|im_start|>assistant\n' }}") -> World:
    """Set a template in which the assistant says `answer`."""
    world.folder.mkdir(parents=True, exist_ok=True)
    (world.folder / "own.jinja").write_text(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
        f"{answer}{{% else %}}{{{{ m.content + '<|im_end|>' }}}}{{% endif %}}{{{{ '\n' }}}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{asking}{{% endif %}}",
        encoding="utf-8",
    )
    world.recipe["model"]["chat_template"] = "own.jinja"
    return world


SAYS = "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}"


@healthy
def tools_in_the_system_message(folder: Path, seed: int) -> World:
    """Tools and calls are text, and the columns beside them are for others to read."""
    rows = [
        {
            "messages": [
                {"role": "system", "content": f"Tools:\n{json.dumps(LOOK)}"},
                _ask(asked),
                {
                    **_call("look", {"room": str(n)}),
                    "content": f'<call>{{"name": "look", "room": "{n}"}}</call>',
                },
                _return(n),
                _answer(answer),
            ],
            "tools": [LOOK],
        }
        for n, (asked, answer) in enumerate(questions(seed, 24))
    ]
    return _use(sft(folder, seed, rows, max_length=1024), SAYS)


@healthy
def a_message_for_each_call(folder: Path, seed: int) -> World:
    """Two calls in two messages, then both results; the names are those of a namespace."""
    rows = [
        {
            "messages": [
                _ask(asked),
                _call("functions.look", {"room": str(n)}),
                _call("functions.look", {"room": str(n + 1)}),
                _return(n),
                _return(n + 1),
                _answer(answer),
            ],
            "tools": [LOOK],
        }
        for n, (asked, answer) in enumerate(questions(seed, 24))
    ]
    return sft(folder, seed, rows, max_length=1024)


@healthy
def arguments_are_code(folder: Path, seed: int) -> World:
    """A tool that takes code as it is: text, and no JSON."""
    tool = {"type": "function", "function": {"name": "python", "description": "Run code.", "parameters": {}}}
    rows = [
        {
            "messages": [_ask(asked), _call("python", f"house.look({n})"), _return(n), _answer(answer)],
            "tools": [tool],
        }
        for n, (asked, answer) in enumerate(questions(seed, 24))
    ]
    return sft(folder, seed, rows, max_length=1024)


@healthy
def arguments_are_json_text(folder: Path, seed: int) -> World:
    """As OpenAI's API gives them, for a template that writes text as it stands."""
    rows = [
        {
            "messages": [
                _ask(asked),
                _call("look", json.dumps({"room": str(n)})),
                _return(n),
                _answer(answer),
            ],
            "tools": [LOOK],
        }
        for n, (asked, answer) in enumerate(questions(seed, 24))
    ]
    world = sft(folder, seed, rows, max_length=1024)
    use_template(world, seed, "qwen3")
    return world


@healthy
def arguments_that_the_schema_leaves_open(folder: Path, seed: int) -> World:
    """A null is an argument like another where the schema takes any."""
    parameters = {**LOOK["function"]["parameters"], "additionalProperties": True}
    tool = {"type": "function", "function": {**LOOK["function"], "parameters": parameters}}
    rows = [
        {
            "messages": [
                _ask(asked),
                _call("look", {"room": str(n), "wall": None}),
                _return(n),
                _answer(answer),
            ],
            "tools": [tool],
        }
        for n, (asked, answer) in enumerate(questions(seed, 24))
    ]
    return sft(folder, seed, rows, max_length=1024)


@healthy
def thoughts_of_earlier_turns_are_forgotten(folder: Path, seed: int) -> World:
    """The template keeps the thoughts of the last answer, which is the one that is trained."""
    rows = chats(seed, 24, turns=3)
    for row in rows:
        for message in row["messages"][1::2]:
            message["content"] = (
                f"<think>\nLet me see: {message['content']}\n</think>\n\n{message['content']}"
            )
    world = sft(folder, seed, rows, max_length=1024)
    world.recipe["data"]["loss_on"] = "completion"
    use_template(world, seed, "qwen3")
    return world


@healthy
def thinking_is_told_to_be_off(folder: Path, seed: int) -> World:
    """Reasoning is there, and the row says that the model is to answer at once."""
    rows = [
        {
            "messages": [_ask(asked), _answer(answer, reasoning_content=f"Let me see: {asked}")],
            "chat_template_kwargs": {"thinking": n % 4 == 0},
        }
        for n, (asked, answer) in enumerate(questions(seed, 24))
    ]
    thought = (
        "{% if thinking and m.reasoning_content is defined %}"
        "{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}"
    )
    return _use(
        sft(folder, seed, rows),
        "{% generation %}" + thought + "{{ m.content + '<|im_end|>' }}{% endgeneration %}",
    )


@healthy
def asked_behind_a_thought_that_rows_have(folder: Path, seed: int) -> World:
    """Thoughts are part of the answers, and the template opens the first one."""
    rows = chats(seed, 24)
    for row in rows:
        row["messages"][-1]["content"] = f"<think>\nLet me see.\n</think>\n\n{row['messages'][-1]['content']}"
    world = _use(sft(folder, seed, rows), SAYS, "{{ '<|im_start|>assistant\n<think>\n' }}")
    world.recipe["data"]["loss_on"] = "completion"
    return world


@healthy
def the_line_break_is_trained(folder: Path, seed: int) -> World:
    """The model begins its answers with a line break itself, behind that of its header."""
    return _use(
        sft(folder, seed, chats(seed, 24)),
        "{% generation %}{{ '\n' + m.content + '<|im_end|>' }}{% endgeneration %}",
    )


@healthy
def earlier_answers_weigh_nothing(folder: Path, seed: int) -> World:
    """Only the last answer is trained, which weighs 1."""
    rows = chats(seed, 24, turns=2)
    for row in rows:
        row["messages"][1]["weight"] = 0
        row["messages"][3]["weight"] = 1
    world = sft(folder, seed, rows)
    world.recipe["data"]["loss_on"] = "completion"
    return world
