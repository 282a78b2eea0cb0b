"""Turns that the rows mark as not to be trained are trained.

Symptom: the model repeats the poor answers that a review had sorted out.
Cause: messages hold `weight: 0`, `train: false` or the like, as OpenAI's API and other trainers read them. TRL and
ftrun choose what is trained by `data.loss_on`, for all turns alike.
Fix: end each conversation with a turn that is to be trained, and set `data.loss_on: completion`.
Source: told is a mark of a turn of the assistant's that `data.loss_on` trains, in one row of a hundred. axolotl#1702,
verl#5472.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import messages_of, spread
from ftrun.checks.finding import Finding
from ftrun.checks.rows import LossOn, SourceRows
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

SAMPLE = 2000
SHARE = 0.01
MARKS = ("weight", "train", "trainable", "train_on_turn", "loss_mask", "loss_weight")
OFF = (0, False, "0", "false", "False")


@check(
    "DATA089",
    title="no turn is trained that its row marks as not to be",
    severity="warning",
    methods=("sft",),
)
def turns_marked_untrained(at: AtData) -> Iterator[Finding]:
    judged = [source for source in at.sources if any(messages_of(one) for one in source.examples[:1])]
    if not judged:
        raise NotApplicable("no row is a conversation")
    for source in judged:
        looked_at = spread(len(source.examples), SAMPLE).tolist()
        found = [(row, mark) for row in looked_at if (mark := _trained_mark(source, row))]
        if found and len(found) >= SHARE * len(looked_at):
            row, mark = found[0]
            yield Finding(
                message=f"In {len(found)} of {len(looked_at)} conversations of {source.label} that were looked at a "
                f"turn of the assistant's is marked `{mark}` and trained all the same: ftrun reads no such marks.",
                fix="End the conversations with the turns that are to be trained, and set data.loss_on: completion.",
                where=Where(file=source.label, row=source.numbers[row], key=source.key),
            )


def _trained_mark(source: SourceRows, row: int) -> str | None:
    for message in _trained(source.examples[row], source.loss_on):
        for mark in MARKS:
            if message.get(mark, 1) in OFF:
                return f"{mark}: {message[mark]}"
    return None


def _trained(example: Mapping[str, Any], loss_on: LossOn) -> list[Mapping[str, Any]]:
    """The turns of the assistant's that are trained."""
    messages = messages_of(example)
    if loss_on == "completion":
        messages = list(example["completion"]) if "completion" in example else messages[-1:]
    return [one for one in messages if one["role"] == "assistant"]


@turns_marked_untrained.fault
def answers_weigh_nothing(world: World) -> None:
    from ftrun.checks.testing import sft_chat

    world.rows = sft_chat(world.folder).rows
    for row in world.rows[::3]:
        row["messages"][2]["weight"] = 0
