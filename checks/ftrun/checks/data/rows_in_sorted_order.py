"""Rows are trained in the order of the file, and the file is sorted.

Symptom: the loss follows the order of the file, with steps where one kind of row ends; what came first is forgotten.
Cause: `train_sampling_strategy: sequential`, and a file that is sorted by its answers or its text, or sources that
follow one another.
Fix: set `training.shuffle_dataset: true`, or `training.train_sampling_strategy: random`, which is the default.
Source: told are sources one after the other; answers that come in one block each, with at least four rows to a block;
texts of which 95 % stand in alphabetical order. Rows that grow longer are an info: a curriculum is a choice.
axolotl#2845, AReaL#1292.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import parts_of
from ftrun.checks.finding import Finding, Patch, Severity
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

ENOUGH = 16
"""Rows below which no order is judged."""

MOST = 20_000
"""Rows at the beginning of the data that are looked at."""

NEARLY_ALL = 0.95
BLOCK = 4
"""Rows that have one answer, on average, where answers come in blocks."""


@check("DATA023", title="rows do not come in a sorted order", severity="warning", methods=("sft",))
def rows_in_sorted_order(at: AtData) -> Iterator[Finding]:
    training, rows = at.recipe.training, at.train
    if training["train_sampling_strategy"] != "sequential" or training["shuffle_dataset"]:
        raise NotApplicable("rows are shuffled")
    if training["packing"] and training["packing_strategy"] != "wrapped":
        raise NotApplicable("packing orders rows by their lengths")
    if len(rows) < ENOUGH:
        raise NotApplicable("there are too few rows to speak of an order")
    count = min(len(rows), MOST)
    texts, answers = [], []
    for source, example in rows.origins[:count].tolist():
        parts = parts_of(rows.sources[source].examples[example], rows.sources[source].loss_on)
        texts.append(parts[0].text if parts else "")
        answers.append(parts[-1].text.strip() if parts else "")
    for severity, what in _orders(rows.origins[:, 0].tolist(), texts, answers, rows.lengths[:count].tolist()):
        yield Finding(
            message=f"Rows are trained in the order of the file (train_sampling_strategy sequential), and {what}.",
            fix="Set training.shuffle_dataset to true.",
            where=at.where("training.train_sampling_strategy"),
            patch=Patch("training.shuffle_dataset", True) if severity == "warning" else None,
            severity=severity,
        )
        return


def _orders(
    sources: Sequence[int], texts: Sequence[str], answers: Sequence[str], lengths: Sequence[int]
) -> Iterator[tuple[Severity, str]]:
    """The orders that the rows have, the worst first, each with how to say it."""
    kinds = len(set(sources))
    if kinds > 1 and _count_changes(sources) == kinds - 1:
        yield "warning", f"its {kinds} sources come one after the other"
    kinds = len(set(answers))
    if 1 < kinds <= len(answers) / BLOCK and _count_changes(answers) == kinds - 1:
        yield "warning", f"its {kinds} answers come in one block each"
    if len(set(texts)) > len(texts) / 2 and _share_ordered(texts) >= NEARLY_ALL:
        yield "warning", "its texts stand in alphabetical order"
    if len(set(lengths)) > BLOCK and _share_ordered(lengths) >= NEARLY_ALL:
        yield "info", "its rows are sorted by length"


def _count_changes(values: Sequence[Any]) -> int:
    return sum(one != other for one, other in pairwise(values))


def _share_ordered(values: Sequence[Any]) -> float:
    """The share of neighbours that stand in one order, up or down, whichever is more frequent."""
    rising = [one <= other for one, other in pairwise(values)]
    falling = [one >= other for one, other in pairwise(values)]
    return max(rising.count(True), falling.count(True)) / len(rising)


@rows_in_sorted_order.fault
def rows_are_sorted_by_their_answers(world: World) -> None:
    for number, row in enumerate(world.rows):
        row["completion"] = ("red", "green", "blue", "white")[number // 8]
    world.recipe["training"]["train_sampling_strategy"] = "sequential"


@rows_in_sorted_order.fault
def rows_are_sorted_by_their_text(world: World) -> None:
    world.rows.sort(key=lambda row: str(row["prompt"]))
    world.recipe["training"]["train_sampling_strategy"] = "sequential"


@rows_in_sorted_order.fault
def sources_follow_one_another(world: World) -> None:
    import json

    world.folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{json.dumps({**row, 'completion': f'No: {i}.'})}\n" for i, row in enumerate(world.rows))
    (world.folder / "more.jsonl").write_text(lines, encoding="utf-8")
    world.recipe["data"]["train"].append({"path": "more.jsonl"})
    world.recipe["training"]["train_sampling_strategy"] = "sequential"
