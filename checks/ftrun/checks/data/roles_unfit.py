"""The roles of the conversations are not those of their speakers.

Symptom: the model asks instead of answering, or begins each answer with the name of a speaker.
Cause: user and assistant were exchanged where the rows were made; answers of pairs have the role of the user; or the
text of a message still holds the label of its speaker, which the chat template writes once more.
Fix: exchange the roles, or cut the labels off, where the rows are made.
Prevention: look at a row with `ftrun preview`.
Source: told are conversations of which 90 % begin with the assistant and end with the user, as an error where nothing
is asked before the one answer; pairs of which one in ten ends with a message that is not the assistant's; and labels
such as `Assistant:` or `### Response:` at the beginning of half of the assistant's messages. A message in which other
lines begin with labels too is a form or a scene, and not judged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import clip, is_chat, messages_of, spread, texts_of
from ftrun.checks.finding import Finding
from ftrun.checks.rows import SourceRows
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

LABEL = re.compile(
    r"\s*(?:#+\s*)?(?:assistant|ai|bot|gpt|chatgpt|model|response|human|user)\s*:", re.IGNORECASE
)
ANOTHER = re.compile(r"\n\s*\w[\w ]{0,20}:")
"""A further line with a label: `Year: 2013`, `Bot: Welcome.`"""

OTHERS = ("user", "human", "system", "tool")
NEARLY_ALL, HALF, SOME = 0.9, 0.5, 0.1
ENOUGH = 16
SAMPLE = 512

Message = Mapping[str, Any]


@check(
    "DATA058",
    title="roles are those of the speakers",
    severity="warning",
    methods=("sft", "reward", "dpo"),
)
def roles_unfit(at: AtData) -> Iterator[Finding]:
    told = [(source, _conversations(source)) for source in at.sources]
    if not any(spoken for _, spoken in told):
        raise NotApplicable("no row is a conversation")
    for source, spoken in told:
        if len(spoken) < ENOUGH:
            continue
        yield from _judge_ends(source)
        turned = [row for row, messages in spoken if _is_turned(messages)]
        answered = sum(_is_asked(messages) for _, messages in spoken)
        labelled = [
            (row, message) for row, messages in spoken if (message := _labelled(messages)) is not None
        ]
        if len(turned) >= NEARLY_ALL * len(spoken):
            yield Finding(
                message=f"{len(turned)} of {len(spoken)} conversations of {source.label} that were looked at begin "
                "with the assistant and end with the user: the roles seem to be exchanged.",
                fix="Exchange user and assistant where the rows are made.",
                where=Where(file=source.label, row=source.numbers[turned[0]], key=source.key),
                severity="error" if 2 * answered < len(spoken) else "warning",
            )
        if len(labelled) >= HALF * len(spoken):
            row, text = labelled[0]
            yield Finding(
                message=f"In {len(labelled)} of {len(spoken)} conversations of {source.label} that were looked at the "
                f"assistant begins with the label of a speaker, {clip(text, 40)}: the template names the role already.",
                fix="Cut these labels off where the rows are made.",
                where=Where(file=source.label, row=source.numbers[row], key=source.key),
            )


def _judge_ends(source: SourceRows) -> Iterator[Finding]:
    """Sides of pairs end with what the assistant says."""
    if source.sides < 2:
        return
    looked = [
        (row + side, messages)
        for row in (spread(len(source.examples) // 2, SAMPLE) * 2).tolist()
        for side in (0, 1)
        if is_chat(source.examples[row + side]) and (messages := messages_of(source.examples[row + side]))
    ]
    wrong = [(row, messages[-1]["role"]) for row, messages in looked if messages[-1]["role"] in OTHERS]
    if wrong and len(wrong) >= SOME * len(looked):
        row, role = wrong[0]
        yield Finding(
            message=f"{len(wrong)} of {len(looked)} answers of {source.label} that were looked at end with a message "
            f"of the role {role}: it is trained as what the {role} says.",
            fix="Give the last message of both sides the role assistant, where the rows are made.",
            where=Where(file=source.label, row=source.numbers[row], key=source.key),
        )


def _is_asked(messages: Sequence[Message]) -> bool:
    """Whether something stands before the last that the assistant says."""
    return any(one["role"] == "assistant" for one in messages[1:])


def _conversations(source: SourceRows) -> list[tuple[int, Sequence[Message]]]:
    rows = (spread(len(source.examples) // source.sides, SAMPLE) * source.sides).tolist()
    spoken = [(row, messages_of(source.examples[row])) for row in rows]
    return [(row, messages) for row, messages in spoken if messages]


def _is_turned(messages: Sequence[Message]) -> bool:
    spoken = [one["role"] for one in messages if one["role"] in ("user", "assistant")]
    return len(spoken) > 1 and spoken[0] == "assistant" and spoken[-1] == "user"


def _labelled(messages: Sequence[Message]) -> str | None:
    """The first text of the assistant's that begins with the label of a speaker."""
    texts = (text for one in messages if one["role"] == "assistant" for text in texts_of(one))
    return next((text for text in texts if LABEL.match(text) and not ANOTHER.search(text)), None)


@roles_unfit.fault
def single_exchanges_are_turned(world: World) -> None:
    world.rows = [
        {
            "messages": [
                {"role": "assistant", "content": row["prompt"]},
                {"role": "user", "content": row["completion"]},
            ]
        }
        for row in world.rows
    ]


@roles_unfit.fault
def answers_of_pairs_are_the_users(world: World) -> None:
    from ftrun.checks.testing import dpo_chat

    world.recipe["method"] = "dpo"
    world.rows = dpo_chat(world.folder).rows
    for row in world.rows:
        row["chosen"][0]["role"] = row["rejected"][0]["role"] = "user"


@roles_unfit.fault
def user_and_assistant_are_exchanged(world: World) -> None:
    from ftrun.checks.testing import sft_chat

    world.rows = sft_chat(world.folder).rows
    for row in world.rows:
        for message in row["messages"][1:]:
            message["role"] = "assistant" if message["role"] == "user" else "user"


@roles_unfit.fault
def speakers_are_named_in_the_text(world: World) -> None:
    from ftrun.checks.testing import sft_chat

    world.rows = sft_chat(world.folder).rows
    for row in world.rows:
        for message in row["messages"]:
            if message["role"] == "assistant":
                message["content"] = f"Assistant: {message['content']}"
