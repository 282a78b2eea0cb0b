"""Rows that train have a system message, and those that are evaluated have none; or the other way round.

Symptom: the loss on held-out rows stays far above the training loss, and says nothing of the model in use.
Cause: the system message was added where one of the two files was written.
Fix: write the same system message into both, or into neither.
Prevention: hold rows out with `data.eval: {fraction: 0.05}`.
Source: told are nine in ten conversations with one on one side, and at most one in ten on the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import messages_of, spread
from ftrun.checks.finding import Finding
from ftrun.checks.rows import Rows
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

NEARLY_ALL, HARDLY_ANY = 0.9, 0.1
ENOUGH = 8
SAMPLE = 512


@check("DATA114", title="what is evaluated has a system message where training has one", severity="warning")
def system_message_on_one_side(at: AtData) -> Iterator[Finding]:
    if at.eval is None or not len(at.eval):
        raise NotApplicable("the recipe holds no rows out")
    (trained, rows), (judged, held_out) = _count(at.train), _count(at.eval)
    if min(rows, held_out) < ENOUGH:
        raise NotApplicable(f"there are fewer than {ENOUGH} conversations on one of the sides")
    shares = trained / rows, judged / held_out
    if max(shares) >= NEARLY_ALL and min(shares) <= HARDLY_ANY:
        yield Finding(
            message=f"{trained} of {rows} training conversations that were looked at have a system message, and "
            f"{judged} of {held_out} that are evaluated.",
            fix="Write the same system message into both, or into neither.",
            where=at.where("data.eval"),
        )


def _count(rows: Rows) -> tuple[int, int]:
    """Of some conversations of a split, those with a system message, and all."""
    examples = (rows.examples[int(number)] for number in spread(len(rows), SAMPLE))
    spoken = [messages for example in examples if (messages := messages_of(example))]
    return sum(any(one["role"] in ("system", "developer") for one in messages) for messages in spoken), len(
        spoken
    )


@system_message_on_one_side.fault
def evaluation_has_lost_it(world: World) -> None:
    from ftrun.checks.testing import sft_chat

    rows = sft_chat(world.folder).rows
    world.rows, world.eval_rows = rows[:20], [{"messages": row["messages"][1:]} for row in rows[20:]]
    world.recipe["data"]["eval"] = [{"path": "eval.jsonl"}]
    world.recipe["training"]["eval_strategy"] = "epoch"
