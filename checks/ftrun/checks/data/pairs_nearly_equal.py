"""Answers of some pairs differ in case, white space and the marks at their ends alone.

Symptom: the model learns to write a final full stop, or a space, and little else; accuracy stops below 1.
Cause: both answers were drawn from one model, which gave the same answer twice; ties were kept, and compared letter by
letter.
Fix: remove these pairs.
Prevention: compare answers without case and white space before they are judged.
Source: 5 % of the pairs are told, and none from 90 % on, where these are what is judged. Of 299 pairs that people
judged none is so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.examples import clip, last_exchange, spread
from ftrun.checks.exchanges import FEW
from ftrun.checks.finding import Finding
from ftrun.checks.fingerprints import text_keys
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

SOME, NEARLY_ALL = 0.05, 0.9
SAMPLE = 2048


@check(
    "DATA083",
    title="the answers of a pair say different things",
    severity="warning",
    methods=("reward", "dpo"),
)
def pairs_nearly_equal(at: AtData) -> Iterator[Finding]:
    rows = at.train
    looked = (2 * spread(len(rows) // 2, SAMPLE)).tolist()
    found = [row for row in looked if _is_tie(rows.examples[row], rows.examples[row + 1])]
    if len(found) > FEW and SOME * len(looked) <= len(found) < NEARLY_ALL * len(looked):
        first = rows[found[0]]
        yield Finding(
            message=f"{len(found)} of {len(looked)} pairs that were looked at have answers that differ in case, white "
            "space and the marks at their ends alone.",
            fix="Remove these pairs from data.train.",
            where=first.where,
            evidence=(
                f"{first.where}: {clip(last_exchange(first.example)[1])}",
                *(str(rows[row].where) for row in found[1:4]),
            ),
        )


def _is_tie(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one != other and text_keys(one, "completion") == text_keys(
        other, "completion"
    )  # DATA040 tells equal ones


@pairs_nearly_equal.fault
def some_answers_differ_in_white_space(world: World) -> None:
    for row in world.rows[::3]:
        row["rejected"] = f"{row['chosen']} \n"


@pairs_nearly_equal.fault
def some_answers_differ_in_case(world: World) -> None:
    for row in world.rows[::3]:
        row["rejected"] = f"{row['chosen'].upper()} "
