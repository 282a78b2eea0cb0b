"""Evaluation rows are training rows in another frame.

Symptom: the evaluation loss follows the training loss down, and no overfitting is ever seen; the model is worse in
use than its figures.
Cause: the evaluation set was made of the same questions with another instruction around them (`Question: … Answer:`),
or without the one that is trained.
Fix: remove these rows from the training data, or evaluate on others.
Prevention: divide by the question before templates are filled.
Source: told are 5 % of the evaluation rows whose answer, of twenty bytes or more, is trained, to a prompt of twenty
bytes or more that holds theirs or stands in it; case, white space and marks at the ends do not count. Of Alpaca and
GSM8K, held against themselves, no row is so. DATA021 tells rows that are the same as a whole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import clip, spread
from ftrun.checks.finding import Finding
from ftrun.checks.fingerprints import all_examples, text_keys
from ftrun.checks.rows import Rows
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

SHARE, FEW = 0.05, 3
SHORT = 20
MOST, MOST_TRAINED = 2000, 50_000
"""Rows of the evaluation that are looked for, and training rows that they are looked for among, evenly spread."""

USUAL = 8
"""Training rows with one answer, beyond which it is a label and tells nothing."""


@check("DATA084", title="what is evaluated is not trained in another frame")
def evaluation_in_another_frame(at: AtData) -> Iterator[Finding]:
    if at.eval is None or not len(at.eval):
        raise NotApplicable("the recipe holds no rows out")
    judged = {place: texts for place, texts in _texts(at.eval, MOST) if min(map(len, texts)) >= SHORT}
    if not judged:
        raise NotApplicable("every row is so short that others are like it by chance")
    wanted = {answer for _, answer in judged.values()}
    trained = defaultdict[bytes, list[tuple[tuple[int, int], bytes]]](list)
    for place, (asked, answer) in _texts(at.train, MOST_TRAINED):
        if answer in wanted and len(asked) >= SHORT and len(trained[answer]) <= USUAL:
            trained[answer].append((place, asked))
    found = [
        (place, there)
        for place, (asked, answer) in judged.items()
        if len(trained[answer]) <= USUAL
        for there in [next((there for there, other in trained[answer] if _frames(asked, other)), None)]
        if there is not None
    ]
    if len(found) > FEW and len(found) >= SHARE * len(judged):
        yield Finding(
            message=f"{len(found)} of {len(judged)} evaluation rows that were looked at are training rows in another "
            "frame: the same answer, to a prompt that holds the other.",
            fix="Remove these rows from data.train, or hold rows out: `data.eval: {fraction: 0.05}`.",
            where=at.where("data.eval"),
            evidence=tuple(
                f"{at.eval.where(*here)} is {at.train.where(*there)}: "
                f"{clip(judged[here][0].decode('utf-8', 'replace'), 80)}"
                for here, there in found[:3]
            ),
            severity="warning",
        )


def _texts(rows: Rows, most: int) -> Iterator[tuple[tuple[int, int], tuple[bytes, bytes]]]:
    """The place of each example of a split, what it asks, and what it answers."""
    places = all_examples(rows)
    for source, example in places[spread(len(places), most)].tolist():
        own = rows.sources[source]
        if own.format != "text":
            asked, whole = text_keys(own.examples[example], own.loss_on)
            yield (source, example), (asked, whole[len(asked) + 1 :])


def _frames(one: bytes, other: bytes) -> bool:
    """Whether the longer of two different texts holds the shorter one, and not within a number."""
    short, long = sorted((one, other), key=len)
    place = long.find(short)
    if place < 0 or short == long:
        return False
    before, behind = long[:place][-1:], long[place + len(short) :][:1]
    splits = (before.isdigit() and short[:1].isdigit()) or (behind.isdigit() and short[-1:].isdigit())
    return not splits


@evaluation_in_another_frame.fault
def evaluation_asks_in_a_frame(world: World) -> None:
    world.eval_rows = [
        {**row, "prompt": f"Question: {row['prompt'].strip()}\nAnswer:"} for row in world.rows[:8]
    ]
    world.recipe["data"]["eval"] = [{"path": "eval.jsonl"}]
    world.recipe["training"]["eval_strategy"] = "epoch"
