"""One label is spelt in several ways.

Symptom: accuracy by exact match stays low, and the model gives one label in several spellings.
Cause: labels of several people or sources were put together: `Positive`, `positive`, `positive.`
Fix: write each label in one way where the rows are made.
Prevention: count the labels before training.
Source: told are sources of at most 50 different answers of up to three words, each of them four times on average, where
labels that differ in case, marks and white space alone are 5 % of the rows or more in each of two spellings. Labels
with fewer than three letters do not count: `a` and `A` may be two.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.examples import squeeze
from ftrun.checks.exchanges import FEW, read_exchanges, with_answers
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

MOST, TIMES, WORDS = 50, 4, 3
SHARE = 0.05
LETTERS = 3


@check("DATA069", title="each label is spelt in one way", severity="warning", methods=("sft",))
def labels_spelt_differently(at: AtData) -> Iterator[Finding]:
    for source in with_answers(at.sources):
        read = read_exchanges(source)
        counts = Counter(one.answered.strip() for one in read)
        if (
            len(counts) > MOST
            or len(read) < TIMES * len(counts)
            or any(len(x.split()) > WORDS for x in counts)
        ):
            continue
        spellings = defaultdict(list)
        for label, count in counts.most_common():
            if count > FEW and count >= SHARE * len(read):
                spellings[squeeze(label).casefold().strip(".,;:!\"'`*")].append(label)
        found = [group for plain, group in spellings.items() if len(group) > 1 and len(plain) >= LETTERS]
        if found:
            first = next(one for one in read if one.answered.strip() == found[0][1])
            yield Finding(
                message=f"{source.label} spells its labels in several ways: "
                + "; ".join(
                    " and ".join(f"{label!r} ({counts[label]})" for label in group) for group in found[:3]
                )
                + f", of {len(read)} rows that were looked at.",
                fix="Write each label in one way where the rows are made.",
                where=Where(file=source.label, row=first.row, key=source.key),
            )


@labels_spelt_differently.fault
def two_sources_were_joined(world: World) -> None:
    spellings = ("positive", "Positive", "negative", "negative.")
    for number, row in enumerate(world.rows):
        row["completion"] = spellings[number % 4]
