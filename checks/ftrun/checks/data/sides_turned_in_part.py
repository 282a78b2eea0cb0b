"""In one part of the pairs the sides are the other way round than in the others.

Symptom: the loss stays near ln 2 (0.6931), and accuracy near a half, although the answers differ plainly.
Cause: one file, one batch of judgements or one half of an export has chosen and rejected exchanged.
Fix: read pairs of both parts, and exchange the sides of the one that is wrong.
Prevention: let one place decide which answer is the chosen one.
Source: a count of the words that chosen answers have and rejected ones lack, made on one part, is asked for the sides
of another: halves and quarters of each source of up to 2,000 pairs, and sources against each other. It is right in
57 % to 72 % of the pairs of healthy data (each half of 299 judged pairs and of the shipped preferences from the other).
Told is under 35 %, where chance is so low once in 30,000 times, if the other part is right about itself. A part counts
too by which answer shares more words with its prompt, where both are about as long and neither declines, and where
each word is as often, by 0.3, on the one side of one part as on the other side of the other. Parts that
reward opposite things, as helpful and harmless answers may, are told too where they differ that much; sides that
hardly differ in their words are not. The words of labels, and of answers that are the chosen ones of another prompt,
are not looked at: which of them come up depends on what is asked.
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
"""Characters of a text that are read."""

ALIKE = 0.67
"""How long the shorter answer is at least, of the longer one, for both to be held against their prompt."""

DECLINES = re.compile(r"\b(?:sorry|cannot|can[’']?t|unable|not able|won[’']?t|not allowed)\b", re.IGNORECASE)

MIRROR = 0.3
"""By how much the shares of a word on opposite sides of two parts may differ, if these are worded alike."""

Words = dict[str, int]
"""The words of the chosen answer alone (1) and of the rejected one alone (-1)."""


@dataclass(frozen=True)
class Pair:
    """What tells the sides of a pair apart."""

    words: Words
    """Nothing where the answers are labels."""

    differing: Words
    """The same, labels or not."""

    nearer: Words
    """Which answer has more words of the prompt."""


@dataclass(frozen=True)
class Part:
    """Some pairs, in their order."""

    label: str
    key: str
    first: Exchange
    last: Exchange
    pairs: Sequence[Pair]


@check(
    "DATA085", title="sides are the same way round everywhere", severity="warning", methods=("reward", "dpo")
)
def sides_turned_in_part(at: AtData) -> Iterator[Finding]:
    wholes = []
    judged = False
    for source in (one for one in at.sources if one.sides == 2):
        told = list(zip(*(read_exchanges(source, side, MOST) for side in (0, 1)), strict=True))
        if len(told) < ENOUGH:
            continue
        pairs = _compare_all(told)
        whole = Part(source.label, source.key, told[0][0], told[-1][0], pairs)
        wholes.append(whole)
        for rest, start, end in _divide(len(pairs)):
            if end - start >= ENOUGH:
                judged = True
                part = Part(source.label, source.key, told[start][0], told[end - 1][0], pairs[start:end])
                others = [pairs[number] for number in rest]
                right = _judge(others, part.pairs)
                if right is not None:
                    yield _tell(part, right, f"the others of {source.label}")
                    break
    for known, asked in permutations(wholes, 2):
        judged = True
        right = _judge(known.pairs, asked.pairs)
        if right is not None:
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


def _compare_all(told: Sequence[tuple[Exchange, Exchange]]) -> list[Pair]:
    chosen = {(one.asked, one.answered) for one, _ in told}
    said = Counter(answer for _, answer in chosen | {(one.asked, one.answered) for _, one in told})
    prompts = Counter(answer for _, answer in chosen)
    found = []
    for one, other in told:
        are_labels = min(said[one.answered], said[other.answered]) > 1
        differing = _compare(one, other)
        words = {} if are_labels or prompts[other.answered] == 1 else differing
        found.append(Pair(words, differing, _find_nearer(one, other)))
    return found


def _compare(chosen: Exchange, rejected: Exchange) -> Words:
    one, other = _words_of(chosen.answered), _words_of(rejected.answered)
    longer = len(chosen.answered) - len(rejected.answered)
    # No word has a space in it.
    length = {"is longer": 1 if longer > 0 else -1} if longer else {}
    return dict.fromkeys(one - other, 1) | dict.fromkeys(other - one, -1) | length


def _find_nearer(chosen: Exchange, rejected: Exchange) -> Words:
    """Which answer has more words of the prompt; nothing where one has more words at all, or declines."""
    lengths = sorted(len(side.answered) for side in (chosen, rejected))
    if lengths[0] < ALIKE * lengths[1] or any(DECLINES.search(side.answered) for side in (chosen, rejected)):
        return {}
    asked = _words_of(chosen.asked)
    more = len(asked & _words_of(chosen.answered)) - len(asked & _words_of(rejected.answered))
    return {"is nearer": 1 if more > 0 else -1} if more else {}


def _words_of(text: str) -> set[str]:
    return set(re.findall(r"\w+|[^\w\s]", text[:LENGTH].lower()))


def _judge(known: Sequence[Pair], asked: Sequence[Pair]) -> float | None:
    """In which share of the pairs asked those known are right, if that says that the sides are turned; else None."""
    alike = _is_mirrored(known, asked)
    one, other = ([pair.words | (pair.nearer if alike else {}) for pair in part] for part in (known, asked))
    right = _ask(one, other)
    return right if _is_turned(right, other) and _agree(one) else None


def _is_mirrored(known: Sequence[Pair], asked: Sequence[Pair]) -> bool:
    """Whether each word is as often on one side of the one part as on the other side of the other: answers of other
    kinds, such as those that decline, are held against their prompts in vain."""
    one, other = (
        Counter(item for pair in part for item in pair.differing.items()) for part in (known, asked)
    )
    words = {word for word, _ in one} | {word for word, _ in other}
    return all(
        abs(one[word, sign] / len(known) - other[word, -sign] / len(asked)) <= MIRROR
        for word in words
        for sign in (1, -1)
    )


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
            "chosen": f"Lamp {number} is {colours[number % 3]}, I am sure.",
            "rejected": f"I cannot say. Perhaps {colours[number % 2]}?",
        }
        for number in range(160)
    ]
    for row in world.rows[80:]:
        row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
