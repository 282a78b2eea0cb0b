"""The chat template leaves out a part of the rows: tools, calls of tools, reasoning, or a piece of the answer.

Symptom: the model makes up the arguments of a tool, answers nothing where it should call one, or has forgotten to think
before it answers.
Cause: the template was written for plain conversations, or cuts what stands before `</think>` off every answer.
Fix: set `model.chat_template` to one that renders this part, or write the part into the contents of the messages.
Prevention: look at a row with `ftrun preview`.
Source: rows are rendered with a part and without it: what makes no difference is left out. Told where it is so in over
half of the rows looked at that have the part. Reasoning and pieces are looked for in the last answer alone: of earlier
ones, templates of reasoning models leave the thoughts out on purpose. Not tools that the messages name themselves.
LLaMA-Factory#5518, LLaMA-Factory#9107, gem#44.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import cut_rows, is_chat, messages_of, sample, squeeze, texts_of
from ftrun.checks.finding import Finding
from ftrun.checks.rows import Row
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

LOOKED_AT = 64
ENOUGH = 0.5
LEAST = 12
"""Characters of a piece that is looked for, without white space."""

REASONING = ("reasoning_content", "reasoning", "thinking", "thoughts", "thought")
"""What a message calls its reasoning; transformers hands the first three to templates under the names they read."""

PIECES = re.compile(r"\n|</?\w+>")
"""What parts the pieces of an answer: lines, and tags as those around thoughts."""

Message = Mapping[str, Any]


@check(
    "DATA086", title="the chat template renders tools, calls, reasoning and whole answers", severity="warning"
)
def parts_not_rendered(at: AtData) -> Iterator[Finding]:
    rows = [
        row for i in sample(at.train, ~cut_rows(at.train), LOOKED_AT) if is_chat((row := at.train[i]).example)
    ]
    if not rows:
        raise NotApplicable("no row is a conversation that is rendered whole")
    for judge, what, fix in (
        (
            _leaves_tools_out,
            "the tools: the model learns to call what it is not shown",
            "Set model.chat_template to one that renders tools, or write them into the system message.",
        ),
        (
            _leaves_calls_out,
            "the calls of tools: turns that call train an empty answer",
            "Set model.chat_template to one that renders tool_calls, or write the calls into the contents.",
        ),
        (
            _leaves_reasoning_out,
            "the reasoning of the answer, which its message holds beside the content",
            "Set model.chat_template to one that renders reasoning, write it into the content between <think> and "
            "</think>, or take it out of the rows.",
        ),
        (
            _cuts_answer,
            "a part of the last answer",
            "Set model.chat_template to one that renders what the assistant says as it stands.",
        ),
    ):
        yield from _tell(at, rows, judge, what, fix)


def _tell(
    at: AtData, rows: Sequence[Row], judge: Callable[[AtData, Row], bool | None], what: str, fix: str
) -> Iterator[Finding]:
    judged = [(row, verdict) for row in rows if (verdict := judge(at, row)) is not None]
    left_out = [row for row, verdict in judged if verdict]
    if len(left_out) > ENOUGH * len(judged):
        yield Finding(
            message=f"In {len(left_out)} of {len(judged)} rows looked at the chat template leaves out {what}.",
            fix=fix,
            where=at.where("model.chat_template"),
            evidence=tuple(str(row.where) for row in left_out[:3]),
        )


def _leaves_tools_out(at: AtData, row: Row) -> bool | None:
    """None: there are none, or the messages show them themselves."""
    messages, tools = messages_of(row.example), row.example.get("tools")
    if not tools:
        return None
    said = "".join(text for one in messages if one["role"] != "assistant" for text in texts_of(one))
    if all(_name(tool) in said for tool in tools):
        return None
    with_tools = _render(at, row, messages)
    return with_tools is not None and with_tools == _render(at, row, messages, tools=None)


def _leaves_calls_out(at: AtData, row: Row) -> bool | None:
    """None: there are none, or the contents show them themselves."""
    messages = [{"content": "", **one} for one in messages_of(row.example)]
    calling = [one for one in messages if one.get("tool_calls")]
    if not calling or all(
        _name(call) in text
        for one in calling
        for call in one["tool_calls"]
        for text in ("".join(texts_of(one)),)
    ):
        return None
    bare = [{key: value for key, value in one.items() if key != "tool_calls"} for one in messages]
    with_calls = _render(at, row, messages)
    return with_calls is not None and with_calls == _render(at, row, bare)


def _leaves_reasoning_out(at: AtData, row: Row) -> bool | None:
    last = messages_of(row.example)[-1]
    thought = next((last[name] for name in REASONING if isinstance(last.get(name), str)), "")
    if last["role"] != "assistant" or len(squeeze(thought)) < LEAST or _is_switched_off(row):
        return None
    return not any(squeeze(thought) in shown for shown in _shown(at, row))


def _cuts_answer(at: AtData, row: Row) -> bool | None:
    """Whether some pieces of the last answer are shown and others are not."""
    last = messages_of(row.example)[-1]
    if last["role"] != "assistant" or last.get("tool_calls") or _is_switched_off(row):
        return None
    pieces = [
        piece for text in texts_of(last) for one in PIECES.split(text) if len(piece := squeeze(one)) >= LEAST
    ]
    if len(pieces) < 2:
        return None
    return all(0 < sum(piece in shown for piece in pieces) < len(pieces) for shown in _shown(at, row))


def _is_switched_off(row: Row) -> bool:
    """Whether the row tells the template not to think, as `enable_thinking: false` does."""
    options = row.example.get("chat_template_kwargs") or {}
    return any("think" in name and not value for name, value in options.items())


def _shown(at: AtData, row: Row) -> Iterator[str]:
    """The row as the template writes it, and as its tokens spell it: the variant that marks answers may keep more."""
    rendered = _render(at, row, messages_of(row.example))
    if rendered is not None:
        yield squeeze(rendered)
    yield squeeze(at.tokenizer.decode(row.ids.tolist()))


def _render(at: AtData, row: Row, messages: Sequence[Message], **options: Any) -> str | None:
    """The text of the messages; None where the template refuses them."""
    from jinja2 import TemplateError

    given = {"tools": row.example.get("tools"), **(row.example.get("chat_template_kwargs") or {}), **options}
    try:
        text: str = at.tokenizer.apply_chat_template(list(messages), tokenize=False, **given)
    except (TemplateError, TypeError, ValueError, KeyError):
        return None
    return text


def _name(tool: Any) -> str:
    """The name of a tool, or of the tool that is called."""
    inner = tool.get("function", tool) if isinstance(tool, Mapping) else {}
    return str(inner.get("name") if isinstance(inner, Mapping) else inner)


PLAIN = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}"
    "{{ CONTENT + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}"
    "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _chat(world: World, content: str) -> None:
    """Conversations, rendered by a template for plain ones."""
    from ftrun.checks.testing import sft_chat

    world.rows = sft_chat(world.folder).rows
    world.recipe["model"]["chat_template"] = "plain.jinja"
    world.folder.mkdir(parents=True, exist_ok=True)
    (world.folder / "plain.jinja").write_text(PLAIN.replace("CONTENT", content), encoding="utf-8")


@parts_not_rendered.fault
def calls_and_tools_are_left_out(world: World) -> None:
    _chat(world, "(m.content or '')")
    function = {"name": "look", "parameters": {"type": "object", "properties": {"room": {"type": "string"}}}}
    for row in world.rows:
        call = {"type": "function", "function": {"name": "look", "arguments": {"room": "3"}}}
        row["messages"][-1:-1] = [
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "It is red."},
        ]
        row["tools"] = [{"type": "function", "function": function}]


@parts_not_rendered.fault
def reasoning_is_left_out(world: World) -> None:
    _chat(world, "m.content")
    for row in world.rows:
        row["messages"][-1]["reasoning_content"] = "The user wants to know a colour."


@parts_not_rendered.fault
def thoughts_are_cut_off(world: World) -> None:
    _chat(world, "m.content.split('</think>')[-1]")
    for row in world.rows:
        last = row["messages"][-1]
        last["content"] = f"<think>\nThe user wants to know a colour.\n</think>\n\n{last['content']}"
