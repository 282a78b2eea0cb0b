"""The model is asked in other words than those that it was trained to answer.

Symptom: held-out loss is good, yet the model that is talked to answers worse, writes the header of a turn first, or
goes on as the user.
Cause: the chat template writes something else before an answer when it asks for one (`add_generation_prompt`) than
it writes before the answers of the rows; or it never asks for one, or at the end of every row.
Fix: let the template write the same before an answer in both cases.
Prevention: `ftrun chat` the trained model, and compare what it was asked with `ftrun preview`.
Source: a few conversations are rendered both ways. Nothing counts that the model is to write itself behind the words
that ask: the channel of gpt-oss, or a line break that the labels train. Nor do thoughts that are opened or empty, of a
template that knows where thoughts end (DeepSeek's, Qwen's and Nemotron's write one or the other), and the white space
around them. Templates that write nothing before an answer pass. None that TRL ships is told. Qwen3#1420.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import clip, cut_rows, is_chat, messages_of, spread, squeeze
from ftrun.checks.finding import Finding
from ftrun.checks.rows import IGNORED, SourceRows
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

LOOKED_AT = 8
"""Conversations of each source."""

ANSWER = "Quartz"
"""Stands for an answer that no template changes."""

SHOWN = 4
"""Characters before white space that tell where it stands."""

THOUGHT = re.compile(r"<(\w+)></\1>|</think>")
OPENED = re.compile(r"<\w+>$")
Messages = Sequence[Mapping[str, Any]]


@check("DATA046", title="the model is asked as it was trained to answer", severity="warning")
def asked_otherwise(at: AtData) -> Iterator[Finding]:
    judged = 0
    for source in at.sources:
        chats = [i for i in spread(len(source.examples), LOOKED_AT).tolist() if is_chat(source.examples[i])]
        for i in chats:
            example = source.examples[i]
            asked = _before_the_answer(messages_of(example))
            if not asked:
                continue
            judged += 1
            told = _compare(at, source, example)
            if told is not None:
                yield Finding(
                    message=f"The chat template {told[2]}.",
                    fix="Let the template write the same with `add_generation_prompt` as before the turns of the "
                    "assistant, or set model.chat_template to one that does.",
                    where=at.where("model.chat_template"),
                    evidence=(
                        f"in the rows: {clip(told[0], 80)}",
                        f"asked for an answer: {clip(told[1], 80)}",
                    ),
                )
                return
    if not judged:
        raise NotApplicable("no row is a conversation with a question")


def _before_the_answer(messages: Messages) -> Messages:
    """The messages before the last answer; all where there is none, as of prompts."""
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    return messages[: answers[-1]] if answers else messages


def _compare(at: AtData, source: SourceRows, example: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """What stands before the answer in a row, what where an answer is asked for, and what is wrong; None where they
    agree."""
    options = {"tools": example.get("tools"), **(example.get("chat_template_kwargs") or {})}
    messages = messages_of(example)
    asked = _before_the_answer(messages)

    def render(messages: Messages, **more: Any) -> str:
        text: str = at.tokenizer.apply_chat_template(list(messages), tokenize=False, **options, **more)
        return text

    whole = render([*asked, {"role": "assistant", "content": ANSWER}])
    question = render(asked, add_generation_prompt=True)
    place = whole.rfind(ANSWER)
    if place < 0:
        return None
    head, rest = whole[:place], whole[place + len(ANSWER) :]
    before, wanted = _without_thought(head), _without_thought(question)
    asks_nothing = question == render(asked)
    wrong = None
    if not before.startswith(wanted) or (asks_nothing and "assistant" in before[len(wanted) :]):
        wrong = "writes other words before an answer when it asks for one than in the rows"
    elif asks_nothing and "assistant" in rest:
        wrong = "ends every row with the words that ask for another answer"
    elif len(asked) < len(messages):
        row = render(messages[: len(asked) + 1])
        if _opens_unknown_thought(at, question) and not squeeze(row).startswith(squeeze(question)):
            wrong = "opens a thought when it asks for an answer, and the answers of the rows have none"
        elif not row.startswith(question) and not (longer := question.removeprefix(head)).strip() and longer:
            wrong = "writes white space before an answer when it asks for one that the rows do not have"
        elif not (gap := head.removeprefix(question)).strip() and gap and _is_masked(at, source, head, gap):
            wrong = "leaves white space out when it asks for an answer that the rows have before theirs, untrained"
    return None if wrong is None else (head[-60:], question[-60:], wrong)


def _opens_unknown_thought(at: AtData, question: str) -> bool:
    """Whether the words that ask open a thought, and the template does not know where thoughts end."""
    opened = OPENED.search(squeeze(question))
    return opened is not None and opened.group().replace("<", "</") not in str(at.tokenizer.chat_template)


def _is_masked(at: AtData, source: SourceRows, head: str, gap: str) -> bool:
    """Whether the labels of a row begin behind this white space, which the model then is never taught to write."""
    import numpy as np

    rows = at.train
    keys = [one.key for one in rows.sources]
    if source.loss_on != "assistant" or source.key not in keys:
        return False
    own = np.flatnonzero((rows.origins[:, 0] == keys.index(source.key)) & ~cut_rows(rows))
    if not len(own):
        return False
    row = rows[int(own[0])]
    text: str = at.tokenizer.decode(row.ids[: int(np.argmax(row.labels != IGNORED))].tolist())
    return text.endswith(head[-len(gap) - SHOWN :])


def _without_thought(text: str) -> str:
    """A text without white space, empty thoughts, and a thought that is opened at its end."""
    return OPENED.sub("", THOUGHT.sub("", squeeze(text)))


@asked_otherwise.fault
def the_model_is_asked_as_a_bot(world: World) -> None:
    _write_template(world, "{% if add_generation_prompt %}{{ '<|im_start|>bot\n' }}{% endif %}")


@asked_otherwise.fault
def nothing_asks_for_an_answer(world: World) -> None:
    _write_template(world, "")


@asked_otherwise.fault
def a_thought_is_opened(world: World) -> None:
    _write_template(
        world, "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
    )


@asked_otherwise.fault
def the_line_break_is_left_out(world: World) -> None:
    _write_template(world, "{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}")


@asked_otherwise.fault
def a_space_is_added(world: World) -> None:
    _write_template(world, "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n ' }}{% endif %}")


@asked_otherwise.fault
def every_row_asks(world: World) -> None:
    _write_template(world, "{{ '<|im_start|>assistant\n' }}")


def _write_template(world: World, asking: str) -> None:
    from ftrun.checks.testing import sft_chat

    world.rows = sft_chat(world.folder).rows
    world.recipe["model"]["chat_template"] = "wrong.jinja"
    world.folder.mkdir(parents=True, exist_ok=True)
    (world.folder / "wrong.jinja").write_text(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}"
        "{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}"
        "{{ '\n' }}{% endfor %}" + asking,
        encoding="utf-8",
    )
