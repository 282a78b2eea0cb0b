"""The model is asked in other words than those that it was trained to answer.

Symptom: held-out loss is good, yet the model that is talked to answers worse, writes the header of a turn first, or
goes on as the user.
Cause: the chat template writes something else before an answer when it asks for one (`add_generation_prompt`) than
it writes before the answers of the rows; or it asks for none.
Fix: let the template write the same before an answer in both cases.
Prevention: `ftrun chat` the trained model, and compare what it was asked with `ftrun preview`.
Source: a few conversations are rendered both ways. White space does not count, nor a thought that is opened or empty
(DeepSeek's, Qwen's and Nemotron's templates write one or the other), nor what the model is to write itself behind
the words that ask (the channel of gpt-oss); templates that write nothing before an answer pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import clip, is_chat, messages_of, spread, squeeze
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

LOOKED_AT = 8
"""Conversations of each source."""

ANSWER = "Quartz"
"""Stands for an answer that no template changes."""

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
            told = _compare(at, example, asked)
            if told is not None:
                yield Finding(
                    message="The chat template writes other words before an answer when it asks for one "
                    "than in the rows.",
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


def _compare(at: AtData, example: Mapping[str, Any], asked: Messages) -> tuple[str, str] | None:
    """What stands before the answer in a row and where an answer is asked for; None where they agree."""
    options = {"tools": example.get("tools"), **(example.get("chat_template_kwargs") or {})}

    def render(messages: Messages, **more: Any) -> str:
        text: str = at.tokenizer.apply_chat_template(list(messages), tokenize=False, **options, **more)
        return text

    whole = render([*asked, {"role": "assistant", "content": ANSWER}])
    question = render(asked, add_generation_prompt=True)
    place = whole.rfind(ANSWER)
    if place < 0:
        return None
    before, wanted = (_without_thought(text) for text in (whole[:place], question))
    asks_nothing = question == render(asked)
    if before.startswith(wanted) and not (asks_nothing and "assistant" in before[len(wanted) :]):
        return None
    return whole[:place][-60:], question[-60:]


def _without_thought(text: str) -> str:
    """A text without white space, empty thoughts, and a thought that is opened at its end."""
    return OPENED.sub("", THOUGHT.sub("", squeeze(text)))


@asked_otherwise.fault
def the_model_is_asked_as_a_bot(world: World) -> None:
    _write_template(world, "{% if add_generation_prompt %}{{ '<|im_start|>bot\n' }}{% endif %}")


@asked_otherwise.fault
def nothing_asks_for_an_answer(world: World) -> None:
    _write_template(world, "")


def _write_template(world: World, asking: str) -> None:
    from ftrun.checks.testing import sft_chat

    world.rows = sft_chat(world.folder).rows
    world.recipe["model"]["chat_template"] = "wrong.jinja"
    world.folder.mkdir(parents=True, exist_ok=True)
    (world.folder / "wrong.jinja").write_text(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        + asking,
        encoding="utf-8",
    )
