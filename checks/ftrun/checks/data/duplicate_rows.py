"""The same row is there many times.

Symptom: the loss falls in steps, one at each epoch; rows that are repeated are recited, the others learnt less.
Cause: sources that overlap were merged, an export ran twice, or a few rows were copied to make a file longer.
Fix: remove the copies; to train some rows more often on purpose, give their source a `weight:` in the recipe.
Prevention: remove duplicates where the file is made, before it is divided for evaluation.
Source: a share of copies of 5 % (warning) and 30 % (error): axolotl#3427; copies in the training data are recited
ten times as often (arXiv 2107.06499). Plain text is a warning at most, as are prompts, to which each rollout draws
another answer; copies of one row alone that is to be learnt, or in a trial of a few steps, are an info. Rows that
`weight:` repeats and rows cut at `max_length` do not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import clip, cut_rows
from ftrun.checks.finding import Finding, Severity
from ftrun.checks.fingerprints import distinct, pair_keys, token_keys
from ftrun.checks.schedule import is_trial
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

MANY, SOME = 0.30, 0.05
FEW = 4
"""Copies that are not worth a word, whatever their share."""


@check("DATA020", title="no row is there many times", severity="warning")
def duplicate_rows(at: AtData) -> Iterator[Finding]:
    import numpy as np

    rows, sides = at.train, at.train.sides
    judged = np.setdiff1d(distinct(rows), cut_rows(rows).nonzero()[0] // sides)
    if not len(judged):
        raise NotApplicable("there are no rows that are whole")
    keys = token_keys(rows)
    keys = (pair_keys(keys.reshape(-1, 2)) if sides == 2 else keys)[judged]
    different, first, counts = np.unique(keys, return_index=True, return_counts=True)
    copies = len(judged) - len(different)
    if copies <= max(FEW, SOME * len(judged)):
        return
    usual = [
        (int(judged[first[i]]), int(counts[i])) for i in np.lexsort((first, -counts))[:3] if counts[i] > 1
    ]
    yield Finding(
        message=f"{copies} of {len(judged)} training rows ({copies / len(judged):.0%}) are copies of another: "
        f"{len(different)} rows are different.",
        fix="Remove the copies; to see rows more often on purpose, raise num_train_epochs or their source's weight.",
        where=rows[usual[0][0] * sides].where,
        evidence=tuple(_show(at, number * sides, count) for number, count in usual),
        # A single row in many copies is a trial: of speed, or of whether one row can be learnt.
        severity="info"
        if len(different) == 1 and at.recipe.method != "ppo"
        else _grade(at, copies / len(judged)),
    )


def _grade(at: AtData, share: float) -> Severity:
    if is_trial(at):
        return "info"
    harmless = at.recipe.method == "ppo" or all(source.format == "text" for source in at.train.sources)
    return "error" if share > MANY and not harmless else "warning"


def _show(at: AtData, index: int, count: int) -> str:
    row = at.train[index]
    return f"{count} times: {row.where}: {clip(at.tokenizer.decode(row.ids[:64].tolist()), 80)}"


@duplicate_rows.fault
def two_rows_are_copied(world: World) -> None:
    world.rows = world.rows[:2] * 24


@duplicate_rows.fault
def two_sources_overlap(world: World) -> None:
    """The second source was made of a part of the first."""
    import json

    world.folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{json.dumps(row)}\n" for row in world.rows[:12])
    (world.folder / "more.jsonl").write_text(lines, encoding="utf-8")
    world.recipe["data"]["train"].append({"path": "more.jsonl"})
