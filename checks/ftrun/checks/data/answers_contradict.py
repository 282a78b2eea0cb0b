"""Pairs say the opposite of each other: what one prefers, another rejects.

Symptom: the loss of these pairs stays at ln 2 (0.6931) or above, and accuracy at a half of them.
Cause: files with chosen and rejected the other way round were put together, or several people judged the same
pair and disagreed.
Fix: keep one pair of each two, by the judgement that holds.
Prevention: let one place decide which answer is the chosen one.
Source: of two pairs that contradict each other, a score can satisfy one; people who judge the same pair disagree on
about a quarter (arXiv 2203.02155, section 3.4). More than 10 % of the pairs is an error, more than 1 % a warning.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding, Severity
from ftrun.checks.fingerprints import pair_keys, token_keys
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

MANY, SOME = 0.10, 0.01


@check("DATA041", title="no pair contradicts another", severity="warning", methods=("reward", "dpo"))
def answers_contradict(at: AtData) -> Iterator[Finding]:
    import numpy as np

    rows = at.train
    sides = token_keys(rows).reshape(-1, 2)
    pairs, turned = pair_keys(sides), pair_keys(sides[:, ::-1])
    found = np.flatnonzero(np.isin(turned, pairs) & (sides[:, 0] != sides[:, 1]))
    if not len(found):
        return
    share = len(found) / len(pairs)
    opposed = [(int(one), int(np.flatnonzero(pairs == turned[one])[-1])) for one in found[:4]]
    first, other = (rows[2 * number].where for number in opposed[0])
    yield Finding(
        message=f"{len(found)} of {len(pairs)} pairs ({share:.1%}) have another with the same answers the other "
        "way round.",
        fix="Keep one pair of each two that contradict each other.",
        where=first,
        evidence=(
            f"{first} prefers what {other} rejects",
            *(f"{rows[2 * one].where} and {rows[2 * two].where}" for one, two in opposed[1:]),
        ),
        severity=_grade(share),
    )


def _grade(share: float) -> Severity:
    return "error" if share > MANY else "warning" if share > SOME else "info"


@answers_contradict.fault
def a_part_is_there_with_its_sides_swapped(world: World) -> None:
    world.rows += [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in world.rows[:8]]
