"""Messages hold the marks that the chat template writes around them.

Symptom: the model writes the marks of a turn inside its turn, and stops too early or goes on for both sides.
Cause: the conversations were rendered before: the content of a message is `<|im_start|>user …<|im_end|>`, and the chat
template renders it once more.
Fix: keep plain text in the messages, or give the rendered text as `text` or as `prompt` and `completion`.
Prevention: look at a row with `ftrun preview`.
Source: marks are the special tokens of a conversation that the template itself renders. Told where a tenth of the
conversations have one in a message; a conversation about chat templates may.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import clip, messages_of, spread, texts_of
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

SOME = 0.1
SAMPLE = 512
PROBE = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@check("DATA059", title="messages hold no marks of the chat template", severity="warning")
def rendered_twice(at: AtData) -> Iterator[Finding]:
    told = False
    marks = _marks(at)
    for source in at.sources:
        rows = (spread(len(source.examples) // source.sides, SAMPLE) * source.sides).tolist()
        spoken = [(row, messages) for row in rows if (messages := messages_of(source.examples[row]))]
        told |= bool(spoken)
        found = [
            (row, text)
            for row, messages in spoken
            if (
                text := next(
                    (
                        text
                        for one in messages
                        for text in texts_of(one)
                        if any(mark in text for mark in marks)
                    ),
                    None,
                )
            )
        ]
        if found and len(found) >= SOME * len(spoken):
            row, text = found[0]
            yield Finding(
                message=f"In {len(found)} of {len(spoken)} conversations of {source.label} that were looked at a "
                "message holds the marks that the chat template writes around it.",
                fix="Take the marks out of the messages, or give the rendered text as `text`.",
                where=Where(file=source.label, row=source.numbers[row], key=source.key),
                evidence=(clip(text),),
            )
    if not told or not marks:
        raise NotApplicable("no row is a conversation that a template with marks renders")


def _marks(at: AtData) -> list[str]:
    """The special tokens that the chat template writes into a conversation that holds none."""
    from jinja2 import TemplateError

    if not at.tokenizer.chat_template:
        return []
    try:
        text = str(at.tokenizer.apply_chat_template(PROBE, tokenize=False))
    except (
        TemplateError,
        TypeError,
        ValueError,
        KeyError,
    ):  # a template that wants more than these two messages
        return []
    return [token for token in at.tokenizer.all_special_tokens if token in text]


@rendered_twice.fault
def contents_are_whole_turns(world: World) -> None:
    from ftrun.checks.testing import sft_chat

    world.rows = sft_chat(world.folder).rows
    for row in world.rows:
        for message in row["messages"]:
            message["content"] = f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n"
