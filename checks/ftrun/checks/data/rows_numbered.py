"""Texts begin with the number of their row.

Symptom: the model begins its answers with a number that means nothing.
Cause: the texts were printed or generated as a numbered list, or an index column was joined to them.
Fix: cut the numbers off where the rows are made.
Prevention: look at three rows in a row with `ftrun preview`.
Source: told are 90 % of the answers or of the prompts of a source, each beginning with a number that is that of its row
in the file, but for one constant: lists of steps begin with 1 in each row. Where what follows the numbers is the same
in half of the rows, the number is what they are about.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.examples import clip
from ftrun.checks.exchanges import read_exchanges, with_answers
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

NEARLY_ALL, HALF = 0.9, 0.5
ENOUGH = 16
NUMBER = re.compile(r"\W{0,2}(\d{1,9})\b")


@check(
    "DATA067",
    title="texts do not begin with row numbers",
    severity="warning",
    methods=("sft", "reward", "dpo"),
)
def rows_numbered(at: AtData) -> Iterator[Finding]:
    for source in with_answers(at.sources):
        read = read_exchanges(source)
        for name, texts in (
            ("answers", [(one.row, one.answered) for one in read]),
            ("prompts", [(one.row, one.asked) for one in read]),
        ):
            numbers = ((row, NUMBER.match(text)) for row, text in texts)
            offsets = Counter(int(number[1]) - row for row, number in numbers if number)
            count = max(offsets.values(), default=0)
            others = {NUMBER.sub("", text, count=1).strip() for _, text in texts}
            if len(others) <= HALF * len(texts):
                continue
            if count >= max(ENOUGH, NEARLY_ALL * len(texts)):
                yield Finding(
                    message=f"{count} of {len(texts)} {name} of {source.label} that were looked at begin with the "
                    "number of their row.",
                    fix=f"Cut the numbers off the {name} where the rows are made.",
                    where=Where(file=source.label, row=texts[0][0], key=source.key),
                    evidence=tuple(f"row {row}: {clip(text, 60)}" for row, text in texts[:2]),
                )


@rows_numbered.fault
def answers_are_a_numbered_list(world: World) -> None:
    for number, row in enumerate(world.rows, 101):
        row["completion"] = f"{number}. {row['completion']}"
