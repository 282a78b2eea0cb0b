"""Conversations that are evaluated go on from training rows, or are the beginnings of some.

Symptom: the evaluation loss follows the training loss down, and no overfitting is ever seen; the model is worse in
use than its figures.
Cause: each conversation became several rows, one for each of its turns, and rows were held out after that.
Fix: hold out whole conversations, before they are taken apart; with loss on every turn of the assistant one row of each
is enough.
Prevention: divide by the conversation, not by the row.
Source: told is one in ten conversations of the evaluation that is the beginning of a training row, or begins with one,
for an exchange at least that is no stock phrase: forty bytes, in at most 32 training rows and 5 % of them. Rows that
are the same as a whole DATA021 tells.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import messages_of, spread, squeeze, texts_of
from ftrun.checks.finding import Finding
from ftrun.checks.fingerprints import all_examples
from ftrun.checks.rows import Rows
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

SHARE, FEW = 0.10, 3
SHORT = 40
USUAL, OFTEN = 32, 0.05
MOST, MOST_TRAINED = 2000, 50_000
"""Conversations of the evaluation that are looked for, and training rows that they are looked for among."""

Turns = tuple[str, ...]


@check("DATA115", title="no conversation is trained in one part and evaluated in another", methods=("sft",))
def evaluation_continues_training(at: AtData) -> Iterator[Finding]:
    if at.eval is None or not len(at.eval):
        raise NotApplicable("the recipe holds no rows out")
    judged = list(_read(at.eval, MOST, lambda turn: True))
    if not judged:
        raise NotApplicable("no conversation is evaluated")
    known = defaultdict[Turns, list[tuple[tuple[int, int], Turns]]](list)
    wanted = {turns[0] for _, turns in judged}
    for there, turns in _read(at.train, MOST_TRAINED, wanted.__contains__):
        known[turns[:2]].append((there, turns))
    usual = max(2, min(USUAL, OFTEN * min(len(at.train), MOST_TRAINED)))
    found = [
        (here, next(there for there, other in others if _continues(turns, other)))
        for here, turns in judged
        if len(others := known.get(turns[:2], ())) <= usual
        and any(_continues(turns, other) for _, other in others)
    ]
    if len(found) > FEW and len(found) >= SHARE * len(judged):
        yield Finding(
            message=f"{len(found)} of {len(judged)} conversations of the evaluation that were looked at are the "
            "beginning of one that is trained, or go on from one.",
            fix="Hold out whole conversations before they are taken apart, and give them as data.eval.",
            where=at.where("data.eval"),
            evidence=tuple(
                f"{at.eval.where(*here)} and {at.train.where(*there)}" for here, there in found[:3]
            ),
            severity="warning",
        )


def _read(rows: Rows, most: int, is_wanted: Callable[[str], bool]) -> Iterator[tuple[tuple[int, int], Turns]]:
    """The place of each conversation that has an exchange to know it by, and its turns without a system message, if the
    first of them is wanted."""
    places = all_examples(rows)
    for source, example in places[spread(len(places), most)].tolist():
        messages = [
            one for one in messages_of(rows.sources[source].examples[example]) if one["role"] != "system"
        ]
        if len(messages) < 2 or not is_wanted(_text(messages[0])):
            continue
        turns = tuple(map(_text, messages))
        if sum(len(turn.encode("utf-8", "replace")) for turn in turns[:2]) >= SHORT:
            yield (source, example), turns


def _text(message: Mapping[str, Any]) -> str:
    return squeeze("".join(texts_of(message)))


def _continues(one: Sequence[str], other: Sequence[str]) -> bool:
    shared = min(len(one), len(other))
    return len(one) != len(other) and one[:shared] == other[:shared]


@evaluation_continues_training.fault
def each_turn_became_a_row(world: World) -> None:
    from ftrun.checks.testing import sft_chat

    healthy = sft_chat(world.folder)
    world.recipe = healthy.recipe
    world.rows = [
        {"messages": row["messages"][:end]}
        for number, row in enumerate(healthy.rows)
        if number % 2
        for end in (3, 5)
    ]
