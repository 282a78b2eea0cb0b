"""Answers belong to the prompts of other rows.

Symptom: the loss falls no lower than that of answers without prompts; the model answers fluently, and something else.
Cause: a column slipped by a row when two files were put side by side, since one has a header, a blank line or a row
more; or one of the columns was sorted or shuffled without the other.
Fix: put the columns together anew, by an id rather than by their order.
Prevention: read three rows in a row with `ftrun preview`.
Source: an answer takes up rare words of its prompt: names, numbers, terms. Told are columns whose answers share more
of them with the prompt one or two rows away than with their own, in five times as many rows as less. Told are also
sources of up to 1,024 rows, and stretches of 128 rows, where 15 % of the answers and prompts are each other's best
match in different rows: of 999 shuffled rows of Alpaca 374 are, of the same rows as they were made 13, while 404 are
their own row's best match; of answers to other questions altogether, 50 to 81.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import clip, last_exchange
from ftrun.checks.finding import Finding
from ftrun.checks.rows import SourceRows
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

DISTANCES = (-1, 1, -2, 2)
ENOUGH = 28
"""Rows of a stretch nearer to another prompt than to their own, below which nothing is concluded. Of 33 answers that
have nothing to do with any prompt, so many lean one way by chance once in 30,000 stretches."""

TIMES = 5.0
BLOCKS, BLOCK = 8, 128
"""At most so many stretches of so many rows are read, each for itself: a slip may begin anywhere."""

MOST = 1024
"""Rows of a source that is searched for answers in no order: they are looked for among all its prompts."""

MATCHED, RARE = 0.15, 0.01
"""Share of rows that have to find a match elsewhere; share of the texts that a word may stand in to count for one."""

COMMON = 0.25
"""Words in a larger share of the prompts tell none from another."""


@dataclass(frozen=True)
class Spoken:
    """What one example asks last, and what it answers last."""

    prompt: str
    answer: str
    asked: frozenset[str]
    answered: frozenset[str]


@dataclass(frozen=True)
class Shift:
    """How far the answers of a source are from their prompts."""

    distance: int | None
    """In rows; above 0, the prompts stand below. None: each answer is elsewhere."""

    nearer: int
    """Answers that share more with the prompt at that distance, or anywhere else."""

    farther: int
    """Answers that share more with their own."""

    first: tuple[Spoken, Spoken]
    """The first of the nearer ones, and the example with the prompt that it is nearer to."""


@check("DATA052", title="answers belong to the prompts of their own rows", severity="warning")
def answers_of_other_rows(at: AtData) -> Iterator[Finding]:
    sources = [one for one in at.sources if one.loss_on != "nothing" and "text" not in one.format]
    if not sources:
        raise NotApplicable("no source has prompts and answers")
    for source in sources:
        for side in range(source.sides):
            count = len(source.examples) // source.sides
            # A rejected answer may be about something else on purpose, and so belong to any prompt.
            searches = [(rows, _find_shift) for rows in _stretches(count)]
            if side == 0:
                searches += [(range(count), _find_disorder)] if 0 < count <= MOST else []
                searches += [(rows, _find_disorder) for rows in _stretches(count)]
            for rows, find in searches:
                shift = find([_listen(source, row * source.sides + side) for row in rows])
                if shift is not None:
                    yield _tell(source, side, rows, shift)
                    break


def _stretches(rows: int) -> list[range]:
    if rows <= BLOCKS * BLOCK:
        return [range(start, min(start + BLOCK, rows)) for start in range(0, rows, BLOCK)]
    starts = [block * (rows - BLOCK) // (BLOCKS - 1) for block in range(BLOCKS)]
    return [range(start, start + BLOCK) for start in starts]


def _listen(source: SourceRows, index: int) -> Spoken:
    asked, answered = last_exchange(source.examples[index])
    return Spoken(asked, answered, _words(asked), _words(answered))


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.casefold()))


def _find_shift(heard: Sequence[Spoken]) -> Shift | None:
    """How far the answers are from their prompts; None where they are where they belong, or belong nowhere."""
    known = Counter(word for one in heard for word in one.asked)
    weights = {word: math.log(len(heard) / n) for word, n in known.items() if n <= COMMON * len(heard)}
    for distance in DISTANCES:
        pairs = [
            (one, heard[place + distance])
            for place, one in enumerate(heard)
            if 0 <= place + distance < len(heard)
        ]
        leanings = [(_lean(one, other, weights), one, other) for one, other in pairs]
        nearer = [(one, other) for lean, one, other in leanings if lean > 0]
        farther = sum(lean < 0 for lean, _, _ in leanings)
        if len(nearer) >= ENOUGH and len(nearer) >= TIMES * farther:
            return Shift(distance, len(nearer), farther, nearer[0])
    return None


def _find_disorder(heard: Sequence[Spoken]) -> Shift | None:
    """Answers that are the best match of a prompt, and it theirs, in other rows; None where that is no rule."""
    best = _match([one.answered for one in heard], [one.asked for one in heard])
    back = _match([one.asked for one in heard], [one.answered for one in heard])
    matches = [(answer, prompt) for answer, prompt in best.items() if back.get(prompt) == answer]
    others = [(heard[answer], heard[prompt]) for answer, prompt in matches if answer != prompt]
    apart = [(one, other) for one, other in others if not _repeats(one, other)]
    together = len(matches) - len(apart)
    if len(apart) < max(ENOUGH, MATCHED * len(heard)) or len(apart) < TIMES * together:
        return None
    return Shift(None, len(apart), together, apart[0])


def _match(texts: Sequence[frozenset[str]], others: Sequence[frozenset[str]]) -> dict[int, int]:
    """For each text that shares rare words with others, the one that it shares most with."""
    holders: dict[str, list[int]] = defaultdict(list)
    for number, words in enumerate(others):
        for word in words:
            holders[word].append(number)
    most = max(2, RARE * len(others))
    best: dict[int, int] = {}
    for number, words in enumerate(texts):
        shared: dict[int, float] = defaultdict(float)
        for word in words:
            if len(holders.get(word, ())) <= most:
                for other in holders.get(word, ()):
                    shared[other] += math.log(len(others) / len(holders[word]))
        if shared:
            best[number] = max(shared, key=lambda other: (shared[other], other == number))
    return best


def _lean(one: Spoken, other: Spoken, weights: dict[str, float]) -> float:
    """By how much more the answer shares with the other prompt than with its own."""
    if not one.answer or _repeats(one, other):
        return 0.0
    own, theirs = (sum(weights.get(word, 0.0) for word in who.asked & one.answered) for who in (one, other))
    return theirs - own


def _repeats(one: Spoken, other: Spoken) -> bool:
    """Whether the other prompt goes on from this answer, as those of a conversation taken apart do, or asks for its
    translation back; or one of the prompts repeats the other."""
    return one.answer in other.prompt or one.prompt in other.prompt or other.prompt in one.prompt


def _tell(source: SourceRows, side: int, rows: range, shift: Shift) -> Finding:
    kind = "answers" if source.sides == 1 else ("preferred answers", "rejected answers")[side]
    first, last = (source.numbers[row * source.sides] for row in (rows[0], rows[-1]))
    one, other = shift.first
    return Finding(
        message=f"{source.label}: in rows {first:,} to {last:,} the {kind} belong to the prompts {_place(shift)}. "
        f"{shift.nearer} share most rare words with those, and {shift.farther} with their own.",
        fix="Put prompts and answers together anew, by an id rather than by their order: a column has slipped.",
        where=Where(file=source.label, row=first, key=source.key),
        evidence=(
            f"answer {clip(one.answer, 60)}, its prompt {clip(one.prompt, 60)}, the other {clip(other.prompt, 60)}",
        ),
    )


def _place(shift: Shift) -> str:
    if shift.distance is None:
        return "of other rows, in no order"
    rows = f"{abs(shift.distance)} row{'s' if abs(shift.distance) > 1 else ''}"
    return f"{rows} {'below' if shift.distance > 0 else 'above'}"


@answers_of_other_rows.fault
def answers_slip_by_a_row(world: World) -> None:
    answers = [row["completion"] for row in world.rows]
    for row, answer in zip(world.rows, [*answers[1:], answers[0]], strict=True):
        row["completion"] = answer


@answers_of_other_rows.fault
def answers_were_sorted_alone(world: World) -> None:
    answers = sorted((row["completion"] for row in world.rows), key=lambda answer: answer[::-1])
    for row, answer in zip(world.rows, answers, strict=True):
        row["completion"] = answer


@answers_of_other_rows.fault
def answers_of_the_last_part_slip_by_seven_rows(world: World) -> None:
    world.rows = [
        {"prompt": f"Where is thing{n}?", "completion": f"Look for thing{n} on shelf{n}."} for n in range(640)
    ]
    answers = [row["completion"] for row in world.rows[512:]]
    for row, answer in zip(world.rows[512:], [*answers[7:], *answers[:7]], strict=True):
        row["completion"] = answer
