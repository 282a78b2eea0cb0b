"""Both answers of a pair are the same.

Symptom: the loss of these pairs stays at ln 2 (0.6931), and accuracy cannot reach 1.
Cause: both answers were drawn from a model that gave the same text twice, or one column was copied to the other.
Fix: remove these pairs.
Prevention: compare the answers before they are judged.
Source: trl#1311 and trl#1627 (stuck at 0.6931). More than 1 % of the pairs is an error, any is a warning.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.examples import clip, cut_rows
from ftrun.checks.finding import Finding
from ftrun.checks.fingerprints import token_keys
from ftrun.checks.rows import IGNORED
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

MANY = 0.01


@check("DATA040", title="the answers of a pair differ", methods=("reward", "dpo"))
def identical_answers(at: AtData) -> Iterator[Finding]:
    import numpy as np

    rows = at.train
    # What truncation makes equal is another fault.
    whole = np.logical_not(cut_rows(rows).reshape(-1, 2).any(axis=1))
    chosen, rejected = token_keys(rows).reshape(-1, 2).T
    same = np.flatnonzero(whole & (chosen == rejected)).tolist()
    if not same:
        return
    share = len(same) / len(whole)
    first = rows[2 * same[0]]
    answer = at.tokenizer.decode(first.ids[first.labels != IGNORED].tolist())
    yield Finding(
        message=f"{len(same)} of {len(whole)} pairs ({share:.1%}) have the same answer on both sides: they teach "
        "nothing.",
        fix="Remove these pairs from data.train.",
        where=first.where,
        evidence=(
            f"{first.where}: {clip(answer)}",
            *(str(rows[2 * pair].where) for pair in same[1:4]),
        ),
        severity="error" if share > MANY else "warning",
    )


@identical_answers.fault
def one_column_was_copied(world: World) -> None:
    for row in world.rows:
        row["rejected"] = row["chosen"]


@identical_answers.fault
def whole_texts_are_equal(world: World) -> None:
    """Without a column for the prompt, all but the last character of equal texts is taken for it."""
    world.rows = [{"chosen": f"{row['prompt']}{row['chosen']}"} for row in world.rows]
    for row in world.rows:
        row["rejected"] = row["chosen"]
