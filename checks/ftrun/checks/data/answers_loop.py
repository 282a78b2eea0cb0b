"""Answers repeat one sentence again and again.

Symptom: the model repeats itself until its budget of tokens ends.
Cause: the generator that wrote the answers fell into a loop, as models do at low temperatures and after long texts.
Fix: remove these rows.
Prevention: generate with a repetition penalty or a higher temperature, and drop what did not end by itself.
Source: told are answers in whose last 2,000 characters four words or more come four times without anything between, in
1 % of the answers; and answers of sixteen words or more whose second half is the first one again. Of 10,389 answers of
Alpaca, GSM8K and judged pairs none loops. Of pairs the chosen side is judged: a rejected answer may loop on purpose.
Songs and the like, which a prompt asks for, repeat themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.exchanges import Exchange, tell_answers
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

SHARE = 0.01
TAIL = 2000
WORDS, TIMES = 4, 4
REFRAIN = re.compile(
    r"\b(?:poems?|lyrics|songs?|chorus|refrains?|chants?|repeat|repeated|twice|double)\b", re.IGNORECASE
)
"""What a prompt speaks of whose answer repeats itself on purpose."""

HALF = 8
"""Words that are said twice, at least."""

LONGEST = 60
"""Words of what is repeated, at most."""


@check("DATA068", title="answers do not loop", severity="warning", methods=("sft", "reward", "dpo"))
def answers_loop(at: AtData) -> Iterator[Finding]:
    yield from tell_answers(
        at.sources,
        _loops,
        share=SHARE,
        what="repeat the same words four times or more, one after the other",
        fix="Remove these rows: the generator of the answers was in a loop.",
    )
    yield from tell_answers(
        at.sources,
        _is_twice,
        share=SHARE,
        what="are one text twice, the second time right behind the first",
        fix="Cut the second half off, where the rows are made.",
    )


def _loops(exchange: Exchange) -> bool:
    if REFRAIN.search(exchange.asked):
        return False
    words = re.findall(r"\S+", exchange.answered[-TAIL:])
    for period in range(WORDS, min(LONGEST, len(words) // TIMES) + 1):
        run = 0
        for place in range(period, len(words)):
            run = run + 1 if words[place] == words[place - period] else 0
            if run >= (TIMES - 1) * period:
                # Rules of a table, numbers of a series and a rhythm of few words repeat too.
                said = re.findall(r"[^\W\d_]{2,}", " ".join(words[place - period + 1 : place + 1]))
                return len(set(said)) >= WORDS
    return False


def _is_twice(exchange: Exchange) -> bool:
    words = exchange.answered.split()
    half = len(words) // 2
    return half >= HALF and words[:half] == words[half:] and not REFRAIN.search(exchange.asked)


@answers_loop.fault
def answers_are_joined_with_themselves(world: World) -> None:
    for row in world.rows:
        row["completion"] = " ".join(2 * [f"{row['completion']} I have looked at it myself, and I am sure."])


@answers_loop.fault
def a_sentence_comes_ten_times(world: World) -> None:
    for row in world.rows[::4]:
        row["completion"] += " It is worth a second look." * 10
