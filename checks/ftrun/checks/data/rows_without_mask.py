"""Nothing is masked in rows of which only the answers are to be trained.

Symptom: the model learns to repeat prompts.
Cause: prompts are blank, the rows are plain text, which has no prompt, or loss on the assistant is asked of
rows that are no conversations.
Fix: give the rows a prompt and an answer, or say data.loss_on: all where everything is to be trained.
Source: one row in a hundred is an error, fewer a warning.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import clip, is_chat, parts_of
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.rows import Row
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

MANY = 0.01


@check("DATA010", title="the prompts are masked where only answers are to be trained", methods=("sft",))
def rows_without_mask(at: AtData) -> Iterator[Finding]:
    import numpy as np

    rows = at.train
    partial = np.array([source.loss_on != "all" for source in rows.sources], np.bool_)[rows.origins[:, 0]]
    if not partial.any():
        raise NotApplicable("everything is trained, as data.loss_on says or follows from the format")
    bare = np.flatnonzero(partial & (rows.trained == rows.lengths))
    if not len(bare):
        return
    total = int(partial.sum())
    first = rows[int(bare[0])]
    reason, fix, loss_on = _explain(first)
    shown = (rows[index] for index in bare[:3].tolist())
    yield Finding(
        message=f"Nothing is masked in {len(bare)} of {total} rows of which only the answers are to be "
        f"trained; in the first, {reason}.",
        fix=fix,
        where=first.where,
        evidence=tuple(f"{row.where} trains: {clip(at.tokenizer.decode(row.ids.tolist()))}" for row in shown),
        # One value holds for all sources.
        patch=Patch("data.loss_on", loss_on) if loss_on and len(rows.sources) == 1 else None,
        severity="error" if len(bare) >= MANY * total else "warning",
    )


def _explain(row: Row) -> tuple[str, str, str | None]:
    """The reason, the fix, and where it is a value of `data.loss_on` that value."""
    loss_on = row.source.loss_on
    if "text" in row.example:
        reason = f"which is plain text, there is no prompt for loss on {loss_on} to leave out"
        return (
            reason,
            "Set data.loss_on: all, or split the text into the columns prompt and completion.",
            "all",
        )
    if loss_on == "assistant" and not is_chat(row.example):
        reason = "which is no conversation, loss on assistant trains the prompt too"
        return reason, "Set data.loss_on: completion.", "completion"
    prompts = [part for part in parts_of(row.example, loss_on) if not part.answer]
    if not any(part.text.strip() for part in prompts):
        return "the prompt is blank", "Fill the prompts, remove these rows, or set data.loss_on: all.", None
    reason = f"no boundary between prompt and answer was found for loss on {loss_on}"
    return (
        reason,
        "Set model.chat_template to a template that renders a prompt alike with and without its answer.",
        None,
    )


@rows_without_mask.fault
def plain_pairs_with_loss_on_assistant(world: World) -> None:
    world.recipe["data"]["loss_on"] = "assistant"


@rows_without_mask.fault
def text_with_loss_on_completion(world: World) -> None:
    world.rows = [{"text": f"{row['prompt']}{row['completion']}"} for row in world.rows]
    world.recipe["data"]["loss_on"] = "completion"


@rows_without_mask.fault
def prompts_are_blank(world: World) -> None:
    for row in world.rows[::4]:
        row["prompt"] = ""
