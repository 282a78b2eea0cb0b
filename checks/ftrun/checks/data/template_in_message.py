"""Questions of conversations stand in a prompt template of another kind.

Symptom: in use, where questions come plain, the model answers worse than its figures.
Cause: rows that were made for a model without chat template (`### Instruction: … ### Response:`) became the messages of
a conversation, which the chat template renders once more.
Fix: keep the plain question in the message, or give the filled template as `prompt` and the answer as `completion`.
Prevention: look at a row with `ftrun preview`.
Source: told where the last question of half of the conversations ends with the label of an answer that belongs to a
template, such as `### Response:`, `ASSISTANT:` or `[/INST]`, or that of a twentieth with a mark that nothing but
templates has (`### Response:`, `[/INST]`, `<|assistant|>`). `Answer:` and `Output:` do not count: tasks end so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import clip, messages_of, spread, texts_of
from ftrun.checks.exchanges import SAMPLE
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

HALF, SOME = 0.5, 0.05
ENOUGH = 16
END = 200
"""Characters at the end of a question that are searched for a label."""

OPENED = re.compile(
    r"^[ \t]*(?:#{2,} ?(?:Response|Assistant|Answer|Output)|ASSISTANT|Assistant|GPT|AI|<[|]assistant[|]>):?\s*\Z|"
    r"\[/INST\]\s*\Z",
    re.MULTILINE,
)


CERTAIN = re.compile(
    r"(?:^### ?Response:|\[/INST\]|<[|]assistant[|]>|<[|]im_start[|]>assistant)\s*\Z", re.MULTILINE
)


@check("DATA081", title="questions of conversations are plain", severity="warning")
def template_in_message(at: AtData) -> Iterator[Finding]:
    judged = False
    for source in at.sources:
        rows = (spread(len(source.examples) // source.sides, SAMPLE) * source.sides).tolist()
        said = [(row, _asked_last(source.examples[row])) for row in rows]
        spoken = [(row, text) for row, text in said if text]
        judged |= bool(spoken)
        found = [(row, text) for row, text in spoken if OPENED.search(text[-END:])]
        if len(found) < max(ENOUGH, HALF * len(spoken)):
            found = [(row, text) for row, text in spoken if CERTAIN.search(text[-END:])]
        if len(found) >= max(ENOUGH, SOME * len(spoken)):
            row, text = found[0]
            yield Finding(
                message=f"In {len(found)} of {len(spoken)} conversations of {source.label} that were looked at the "
                f"last question ends with the label of an answer, {text.split()[-1]!r}: a template was filled before "
                "the chat template is.",
                fix="Keep plain questions in the messages, or give the filled template as `prompt` and `completion`.",
                where=Where(file=source.label, row=source.numbers[row], key=source.key),
                evidence=(clip(text),),
            )
    if not judged:
        raise NotApplicable("no row is a conversation")


def _asked_last(example: Mapping[str, Any]) -> str:
    """The text of the user's last message; nothing where there is none."""
    asked = [one for one in messages_of(example) if one["role"] == "user"]
    return "".join(texts_of(asked[-1])) if asked else ""


@template_in_message.fault
def a_template_was_filled_before(world: World) -> None:
    from ftrun.checks.testing import sft_chat

    world.rows = sft_chat(world.folder).rows
    for row in world.rows:
        for message in row["messages"]:
            if message["role"] == "user":
                message["content"] = f"### Instruction:\n{message['content']}\n\n### Response:\n"


@template_in_message.fault
def a_fifth_was_rendered_for_another_model(world: World) -> None:
    from ftrun.checks.testing import sft_chat

    world.rows = sft_chat(world.folder).rows * 4
    for row in world.rows[::5]:
        for message in row["messages"]:
            if message["role"] == "user":
                message["content"] = f"<s>[INST] {message['content']} [/INST]"
