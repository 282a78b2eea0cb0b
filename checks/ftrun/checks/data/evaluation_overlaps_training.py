"""Rows of the evaluation are among the training rows.

Symptom: the evaluation loss follows the training loss down, and no overfitting is ever seen; the model is worse in
use than its figures.
Cause: both are read from one file, the rows were divided after they had been multiplied or rephrased, or copies stand
on both sides of the division.
Fix: remove these rows from the training data, or evaluate on others; remove copies before rows are held out.
Prevention: divide by the question, not by the row, before anything is added.
Source: one evaluation row in a hundred is a warning, one in ten an error: preflight checkers of the same fault fail
at 1 % (peft-doctor `dataset.train_eval_overlap`). Rows are compared whole, without case, white space and the marks
that end sentences. A question that has another answer on the other side is an info: some data sets have several
answers to one question.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding, Severity
from ftrun.checks.fingerprints import all_examples, text_keys
from ftrun.checks.rows import Rows
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ftrun.checks.testing import World

MANY, SOME = 0.10, 0.01
HALF = 0.5
"""Share of the questions from which on it is worth a word that they are trained with other answers."""

TOGETHER = 10_000
"""Places that are Python's own numbers at a time."""

SHORT = 20
"""Bytes under which rows are alike by chance: greetings, sums of small numbers."""


@dataclass(frozen=True)
class _Keys:
    """Of each example of a split: its source and number there, and what tells what it asks and all of it."""

    places: NDArray[np.int64]
    asked: NDArray[np.int64]
    whole: NDArray[np.int64]
    asks_long: NDArray[np.bool_]
    is_long: NDArray[np.bool_]


@check("DATA021", title="what is evaluated is not trained")
def evaluation_overlaps_training(at: AtData) -> Iterator[Finding]:
    import numpy as np

    if at.eval is None or not len(at.eval):
        raise NotApplicable("the recipe holds no rows out")
    trained, judged = _make_keys(at.train), _make_keys(at.eval)
    if not judged.is_long.any():
        raise NotApplicable("every row is so short that others are like it by chance")
    total = int(judged.is_long.sum())
    shared = np.flatnonzero(judged.is_long & np.isin(judged.whole, trained.whole))
    if len(shared) > SOME * total:
        pairs = [(here, np.flatnonzero(trained.whole == judged.whole[here])[-1]) for here in shared[:3]]
        shown = tuple(
            f"{_name(at.eval, judged, here)} is {_name(at.train, trained, there)}" for here, there in pairs
        )
        yield _tell(at, len(shared), total, shown)
        return
    again = int(np.isin(judged.asked, trained.asked[trained.asks_long]).sum())
    if again > HALF * len(judged.asked):
        yield Finding(
            message=f"{again} of {len(judged.asked)} questions of the evaluation rows are trained too, with other "
            "answers.",
            fix="Evaluate on questions that are not trained, unless these have many right answers.",
            where=at.where("data.eval"),
            severity="info",
        )


def _make_keys(rows: Rows) -> _Keys:
    import numpy as np

    def measure(source: int, example: int) -> tuple[int, int, int, int]:
        own = rows.sources[source]
        sides = [text_keys(own.examples[example + side], own.loss_on) for side in range(own.sides)]
        asked, whole = sides[0][0], b"\n".join(all_of_it for _, all_of_it in sides)
        return hash(asked), hash(whole), len(asked), len(whole)

    places = all_examples(rows)
    found = np.fromiter(
        chain.from_iterable(measure(*place) for place in _in_turn(places)), np.int64, 4 * len(places)
    )
    asked, whole, asked_length, whole_length = found.reshape(-1, 4).T
    return _Keys(places, asked, whole, asked_length >= SHORT, whole_length >= SHORT)


def _in_turn(places: NDArray[np.int64]) -> Iterator[list[int]]:
    return chain.from_iterable(
        places[first : first + TOGETHER].tolist() for first in range(0, len(places), TOGETHER)
    )


def _name(rows: Rows, keys: _Keys, number: int) -> str:
    source, example = keys.places[number].tolist()
    return str(rows.where(source, example))


def _tell(at: AtData, shared: int, total: int, shown: tuple[str, ...]) -> Finding:
    held_out = not isinstance(at.recipe.data.eval, list)
    severity: Severity = "error" if shared > MANY * total else "warning"
    return Finding(
        message=f"{shared} of {total} evaluation rows ({shared / total:.0%}) are training rows as well, but for case "
        "and white space.",
        fix="Remove copies from the sources of data.train: held-out rows have copies that are trained."
        if held_out
        else "Remove these rows from data.train, or evaluate on others: `data.eval: {fraction: 0.05}` holds some out.",
        where=at.where("data.eval"),
        evidence=shown,
        severity=severity,
    )


@evaluation_overlaps_training.fault
def one_file_for_both(world: World) -> None:
    world.eval_rows = list(world.rows)
    world.recipe["data"]["eval"] = [{"path": "eval.jsonl"}]
    world.recipe["training"]["eval_strategy"] = "epoch"


@evaluation_overlaps_training.fault
def rows_were_respelt(world: World) -> None:
    world.eval_rows = [
        {**row, "prompt": f"  {row['prompt'].upper()}\n", "completion": f"{row['completion']} "}
        for row in world.rows[:6]
    ]
    world.recipe["data"]["eval"] = [{"path": "eval.jsonl"}]
    world.recipe["training"]["eval_strategy"] = "epoch"


@evaluation_overlaps_training.fault
def copies_on_both_sides_of_a_fraction(world: World) -> None:
    world.rows = world.rows + world.rows[:12]
    world.recipe["data"]["eval"] = {"fraction": 0.25}
    world.recipe["training"]["eval_strategy"] = "epoch"
