"""Answers go on after they have ended.

Symptom: the model answers, and then asks itself the next question, when its stop token is not honoured; the loss
counts turns that no one wants.
Cause: a dialogue was written into one answer, marks of the turns and all; or what a user said holds marks, and the
answer is taken for longer than it is.
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
from ftrun.checks.examples import clip
from ftrun.checks.finding import Finding
from ftrun.checks.rows import IGNORED, Rows
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ftrun.checks.testing import World

ENOUGH = 0.01
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


@answers_go_on.fault
def a_dialogue_in_one_answer(world: World) -> None:
    for row in world.rows[::3]:
        row["completion"] += (
            "<|im_end|>\n<|im_start|>user\nAnd the door?<|im_end|>\n<|im_start|>assistant\nIt is grey."
        )
