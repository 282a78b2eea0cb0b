"""Answers end with the stop token twice.

Symptom: the model learns to write a token that is never read, since generation stops at the first; figures of length
and log-probability are off by one.
Cause: the answers hold the token as text already, and the template or the tokenizer adds it again.
Fix: take the token out of the answers.
Source: one row in a hundred: trl#741, trl#1591, trl#1885. Told is the same stop token twice, with nothing but white
space between; two different ones are the habit of some templates.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.examples import clip
from ftrun.checks.finding import Finding
from ftrun.checks.rows import IGNORED, Rows
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ftrun.checks.testing import World

ENOUGH = 0.01


@check("DATA024", title="every answer ends once", severity="warning", methods=("sft", "reward", "dpo"))
def answers_end_twice(at: AtData) -> Iterator[Finding]:
    import numpy as np

    rows = at.train
    twice = rows.each(lambda block: _ends_twice(at, block))
    if not twice.any() or twice.sum() < ENOUGH * len(rows):
        return
    row = rows[int(np.flatnonzero(twice)[0])]
    stop = at.tokenizer.decode([next(id for id in reversed(row.ids.tolist()) if id in at.stop_ids)])
    yield Finding(
        message=f"{int(twice.sum())} of {len(rows)} rows end with {stop} twice; generation stops at the first.",
        fix=f"Remove {stop} from the answers: it is added when rows are made.",
        where=row.where,
        evidence=(f"{row.where} ends: {clip(at.tokenizer.decode(row.ids[-12:].tolist()))}",),
    )


def _ends_twice(at: AtData, rows: Rows) -> NDArray[np.bool_]:
    import numpy as np

    # The last three tokens of each row: enough for a line break between or after the two.
    long = np.flatnonzero(rows.lengths >= 3)
    places = rows.starts[1:][long][:, None] - np.array([3, 2, 1])
    ids, trained = rows.ids[places], rows.labels[places] != IGNORED
    stops = np.isin(ids, list(at.stop_ids)) & trained
    twice = (stops[:, 1] & stops[:, 2] & (ids[:, 1] == ids[:, 2])) | (
        stops[:, 0] & stops[:, 1] & (ids[:, 0] == ids[:, 1])
    )
    apart = stops[:, 0] & stops[:, 2] & (ids[:, 0] == ids[:, 2]) & ~stops[:, 1]
    blank = [id for id in np.unique(ids[apart][:, 1]).tolist() if not at.tokenizer.decode([id]).strip()]
    twice |= apart & np.isin(ids[:, 1], blank)
    found = np.zeros(len(rows), np.bool_)
    found[long] = twice
    return found


@answers_end_twice.fault
def answers_hold_the_token_as_text(world: World) -> None:
    for row in world.rows:
        for key in ("completion", "chosen", "rejected"):
            if isinstance(row.get(key), str):
                row[key] += "<|im_end|><|im_end|>"
