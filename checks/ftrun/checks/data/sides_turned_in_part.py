"""In one part of the pairs the sides are the other way round than in the others.

Symptom: the loss stays near ln 2 (0.6931), and accuracy near a half, although the answers differ plainly.
Cause: one file, one batch of judgements or one half of an export has chosen and rejected exchanged.
Fix: read pairs of both parts, and exchange the sides of the one that is wrong.
Prevention: let one place decide which answer is the chosen one.
Source: a count of the words that chosen answers have and rejected ones lack, made on one part, is asked for the sides
of another: halves and quarters of each source of up to 2,000 pairs, and sources against each other. It is right in
57 % to 72 % of the pairs of healthy data (each half of 299 judged pairs and of the shipped preferences from the other).
Told is under 35 %, where chance is so low once in 30,000 times, if the other part is right about itself. Parts that
reward opposite things, as helpful and harmless answers may, are told too where they differ that much; sides that
hardly differ in their words are not, nor pairs whose rejected answer is the chosen one of one other prompt.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.exchanges import Exchange, read_exchanges
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

MOST = 2000
ENOUGH = 60
"""Pairs of a part, below which it is not judged."""

SHARE, DEVIATIONS = 0.35, 4.0
AGREED = 0.55
SEEN = 5
"""Pairs that a word has to tell apart before it counts."""

LENGTH = 2000
"""Characters of an answer that are read."""

Words = dict[str, int]


@dataclass(frozen=True)
class Part:
    """Some pairs: for each, the words of the chosen answer alone (1) and of the rejected one alone (-1)."""

    label: str
    key: str
    first: Exchange
    last: Exchange
    pairs: Sequence[Words]


@check(
    "DATA085", title="sides are the same way round everywhere", severity="warning", methods=("reward", "dpo")
)
def sides_turned_in_part(at: AtData) -> Iterator[Finding]:
    wholes = []
    judged = False
    for source in (one for one in at.sources if one.sides == 2 and one.key.startswith("data.train")):
        sides = [read_exchanges(source, side, MOST) for side in (0, 1)]
        prompts = Counter(answer for _, answer in {(one.asked, one.answered) for one in sides[0]})
        told = [
            (chosen, rejected)
            for chosen, rejected in zip(*sides, strict=True)
            if prompts[rejected.answered] != 1
        ]
        if len(told) < ENOUGH:
            continue
        pairs = [_compare(*pair) for pair in told]
        whole = Part(source.label, source.key, told[0][0], told[-1][0], pairs)
        wholes.append(whole)
        for rest, start, end in _divide(len(pairs)):
            if end - start >= ENOUGH:
                judged = True
                part = Part(source.label, source.key, told[start][0], told[end - 1][0], pairs[start:end])
                others = [pairs[number] for number in rest]
                right = _ask(others, part.pairs)
                if _is_turned(right, part.pairs) and _agree(others):
                    yield _tell(part, right, f"the others of {source.label}")
                    break
    for known, asked in permutations(wholes, 2):
        judged = True
        right = _ask(known.pairs, asked.pairs)
        if _is_turned(right, asked.pairs) and _agree(known.pairs):
            yield _tell(asked, right, f"those of {known.label}")
            break
    if not judged:
        raise NotApplicable(f"no part of a source has {ENOUGH} pairs")


def _divide(count: int) -> Iterator[tuple[Sequence[int], int, int]]:
    """The second half with the first one as the rest, and each quarter with all others."""
    half, quarter = count // 2, count // 4
    yield range(half), half, count
    for start in range(0, 4 * quarter, quarter):
        yield [*range(start), *range(start + quarter, count)], start, start + quarter


def _compare(chosen: Exchange, rejected: Exchange) -> Words:
    one, other = (
        set(re.findall(r"\w+|[^\w\s]", side.answered[:LENGTH].lower())) for side in (chosen, rejected)
    )
    longer = len(chosen.answered) - len(rejected.answered)
    # No word has a space in it.
    length = {"is longer": 1 if longer > 0 else -1} if longer else {}
    return dict.fromkeys(one - other, 1) | dict.fromkeys(other - one, -1) | length


def _ask(known: Sequence[Words], asked: Sequence[Words]) -> float:
    """In which share of the pairs asked the words of those known tell the sides rightly; ties are half."""
    counts = Counter((word, sign) for pair in known for word, sign in pair.items())
    weights = {
        word: math.log((counts[word, 1] + 1) / (counts[word, -1] + 1))
        for word in {word for word, _ in counts}
        if counts[word, 1] + counts[word, -1] >= SEEN
    }
    scores = [sum(weights.get(word, 0.0) * sign for word, sign in pair.items()) for pair in asked]
    return sum(1.0 if score > 0 else 0.5 if score == 0 else 0.0 for score in scores) / len(asked)


def _is_turned(right: float, pairs: Sequence[Words]) -> bool:
    return right < SHARE and (0.5 - right) * 2 * math.sqrt(len(pairs)) > DEVIATIONS


def _agree(pairs: Sequence[Words]) -> bool:
    """Whether words tell the sides of these pairs among themselves. Where a rejected answer is the chosen one of
    another pair they do not, and part speaks against part only since each word is as often on both sides."""
    return _ask(pairs[::2], pairs[1::2]) > AGREED


def _tell(part: Part, right: float, known: str) -> Finding:
    return Finding(
        message=f"{part.label}: in rows {part.first.row:,} to {part.last.row:,} chosen and rejected answers seem to be "
        f"exchanged. The words that tell the sides of {known} are right in {right:.0%} of their {len(part.pairs)} "
        "pairs.",
        fix="Read pairs of both parts, and exchange the sides of the one that is wrong.",
        where=Where(file=part.label, row=part.first.row, key=part.key),
    )


@sides_turned_in_part.fault
def the_second_half_is_turned(world: World) -> None:
    colours = ("red", "green", "blue")
    world.rows = [
        {
            "prompt": f"What colour is lamp {number}?\n",
            "chosen": f"The lamp is {colours[number % 3]}, I am sure.",
            "rejected": f"I cannot say. Perhaps {colours[number % 2]}?",
        }
        for number in range(160)
    ]
    for row in world.rows[80:]:
        row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
