"""Truncation leaves the same tokens of both answers of a pair.

Symptom: the loss of these pairs stays at ln 2 (0.6931) and their gradient is exactly 0.
Cause: `max_length` cuts before the answers differ: a long prompt, or a long beginning that they share.
Fix: raise `training.max_length`, or shorten the prompts.
Prevention: look at the share of cut rows that preflight prints.
Source: trl#3398, trl#2332 and trl#5305 (stuck at ln 2). More than 1 % of the pairs is an error, any is a warning.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.rows import Rows
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

MANY = 0.01


@check("DPO006", title="the answers of a pair differ after truncation", methods=("dpo",))
def pairs_equal_after_truncation(at: AtData) -> Iterator[Finding]:
    rows = at.train
    if not (rows.full_lengths > rows.lengths).any():
        raise NotApplicable("no row is cut")
    same = [pair for pair in _cut_alike(rows) if _is_equal(rows, pair)]
    if not same:
        return
    share = len(same) / (len(rows) // 2)
    longest = int(rows.full_lengths.max())
    yield Finding(
        f"Of {len(same)} of {len(rows) // 2} pairs ({share:.1%}) both answers are the same tokens once cut at "
        f"training.max_length {at.recipe.training['max_length']}: they teach nothing.",
        f"Raise training.max_length (the longest row has {longest:,} tokens), or shorten the prompts.",
        at.where("training.max_length"),
        evidence=tuple(str(rows[2 * pair].where) for pair in same[:5]),
        severity="error" if share > MANY else "warning",
    )


def _cut_alike(rows: Rows) -> list[int]:
    """Pairs of which a side was cut, and of which both sides are of one length now."""
    import numpy as np

    cut = (rows.full_lengths > rows.lengths).reshape(-1, 2).any(1)
    lengths = rows.lengths.reshape(-1, 2)
    found: list[int] = np.flatnonzero(cut & (lengths[:, 0] == lengths[:, 1])).tolist()
    return found


def _is_equal(rows: Rows, pair: int) -> bool:
    import numpy as np

    chosen, rejected = rows[2 * pair], rows[2 * pair + 1]
    return bool(np.array_equal(chosen.ids, rejected.ids))


@pairs_equal_after_truncation.fault
def the_answers_begin_alike(world: World) -> None:
    """They differ beyond max_length."""
    world.recipe["training"]["max_length"] = 40
    for row in world.rows:
        shared = "Let me think about the rooms of this house one after the other. " * 3
        row["chosen"], row["rejected"] = shared + row["chosen"], shared + row["rejected"]
