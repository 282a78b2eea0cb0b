"""Answers go on after they have ended.

Symptom: the model answers, and then asks itself the next question, when its stop token is not honoured; the loss
counts turns that no one wants.
Cause: a dialogue was written into one answer, marks of the turns and all; what a user said holds marks, and the answer
is taken for longer than it is; or the two sides of a pair part at a turn of the user, which belongs to the answer then.
Fix: give dialogues as `messages`, one for each turn, or end the answer at its first stop token.
Prevention: `ftrun preview` shows every trained token.
Source: trained tokens go on for at least four behind a token that generation stops on, in one row in a hundred. Plain
text, and rows of which everything is trained, are not judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import clip, is_chat, texts_of
from ftrun.checks.finding import Finding
from ftrun.checks.rows import IGNORED, Rows
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ftrun.checks.testing import World

ENOUGH = 0.01
LOOKED = 64
"""Rows of pairs whose turns are looked at."""

BEHIND = 4
"""Trained tokens behind a stop token that are more than a line break or a mark."""


@check("DATA050", title="answers end where they stop", severity="warning", methods=("sft", "reward", "dpo"))
def answers_go_on(at: AtData) -> Iterator[Finding]:
    import numpy as np

    rows = at.train
    judged = np.array([one.loss_on in ("completion", "assistant") for one in rows.sources])[
        rows.origins[:, 0]
    ]
    if not judged.any():
        raise NotApplicable("every token of the rows is trained")
    wrong = np.flatnonzero(rows.each(lambda block: _go_on(block, list(at.stop_ids))) & judged)
    if not len(wrong) or len(wrong) < ENOUGH * int(judged.sum()):
        return
    row = rows[int(wrong[0])]
    if (parted := _find_parted(rows, wrong)) is not None:
        yield _tell_parted(rows, parted, len(wrong))
        return
    answer = at.tokenizer.decode(row.labels[row.labels != IGNORED].tolist())
    yield Finding(
        message=f"In {len(wrong)} of {int(judged.sum())} rows an answer goes on behind a token that generation "
        "stops on.",
        fix="Give dialogues as messages, one for each turn, or end the answer at its first stop token.",
        where=row.where,
        evidence=(f"{row.where} trains: {clip(answer)}",),
    )


def _go_on(rows: Rows, stop_ids: list[int]) -> NDArray[np.bool_]:
    """Which rows are trained up to BEHIND tokens behind a stop token, without a gap and without another such token."""
    import numpy as np

    trained = rows.labels != IGNORED
    stops = np.flatnonzero(trained & np.isin(rows.ids, stop_ids))
    row_of = np.searchsorted(rows.starts, stops, "right") - 1
    within = stops + BEHIND < rows.starts[row_of + 1]
    stops, row_of = stops[within], row_of[within]
    behind = stops[:, None] + np.arange(1, BEHIND + 1)
    goes_on = trained[behind].all(1) & ~np.isin(rows.ids[behind[:, :2]], stop_ids).any(1)
    wrong = np.zeros(len(rows), np.bool_)
    wrong[row_of[goes_on]] = True
    return wrong


def _find_parted(rows: Rows, wrong: NDArray[np.int64]) -> int | None:
    """The first pair, by the number of its chosen side, that parts at what is asked, if most of the wrong ones do."""
    pairs = [int(row) // 2 * 2 for row in wrong[:LOOKED]] if rows.sides > 1 else []
    parted = [row for row in pairs if all(_asks(rows, row + side) for side in (0, 1))]
    return parted[0] if len(parted) > len(pairs) / 2 else None


def _asks(rows: Rows, row: int) -> str:
    """What is asked first behind the prompt, in the turns of one side."""
    example = rows.examples[row]
    turns = example.get("completion", ()) if is_chat(example) else ()
    return next((text for one in turns if one["role"] in ("user", "system") for text in texts_of(one)), "")


def _tell_parted(rows: Rows, row: int, count: int) -> Finding:
    where = rows[row].where
    return Finding(
        message=f"In {count} sides of pairs a turn of the user, or a system message, is trained as a part of the "
        "answer: the other side does not have the same one.",
        fix="Make all turns before the two answers the same on both sides, or give them once, as `prompt`.",
        where=where,
        evidence=(
            f"{where}: the chosen side asks {clip(_asks(rows, row), 80)}, the rejected one "
            f"{clip(_asks(rows, row + 1), 80)}",
        ),
    )


@answers_go_on.fault
def sides_have_prompts_of_their_own(world: World) -> None:
    from ftrun.checks.testing import dpo_chat

    world.recipe["method"] = "dpo"
    world.rows = [
        {
            side: [{"role": "user", "content": f"{label}{row['prompt'][-1]['content']}"}, *row[side]]
            for side, label in (("chosen", ""), ("rejected", "Question: "))
        }
        for row in dpo_chat(world.folder).rows
    ]


@answers_go_on.fault
def a_dialogue_in_one_answer(world: World) -> None:
    for row in world.rows[::3]:
        row["completion"] += (
            "<|im_end|>\n<|im_start|>user\nAnd the door?<|im_end|>\n<|im_start|>assistant\nIt is grey."
        )
