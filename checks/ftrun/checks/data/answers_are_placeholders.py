"""Some answers are nothing but a placeholder.

Symptom: now and then the model answers `{{ answer }}` or `[Insert answer here]`.
Cause: rows without a value were written from a template all the same; or people left fields of a form as they were.
Fix: fill these answers, or remove the rows.
Prevention: let the template fail where a value is missing (`StrictUndefined` of Jinja).
Source: told are answers that are one name in braces or one instruction in brackets and nothing else, from 0.5 % of the
rows on, where the prompt does not hold it: of 10,389 answers of Alpaca, GSM8K and judged pairs none is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.exchanges import read_exchanges, with_answers
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

SHARE, LEAST = 0.005, 2
HOLE = re.compile(
    r"\{\{ ?[a-z_][\w.]* ?\}\}|\{[a-z_]\w*\}|\$\{\w+\}|%\(\w+\)s|\[(?:insert|your|enter|add|todo)\b[^\[\]]*\]|"
    r"<(?:insert|your|enter|add|todo)\b[^<>]*>",
    re.IGNORECASE,
)


@check("DATA079", title="no answer is a placeholder", severity="warning", methods=("sft", "reward", "dpo"))
def answers_are_placeholders(at: AtData) -> Iterator[Finding]:
    for source in with_answers(at.sources):
        read = read_exchanges(source)
        texts = [(one, one.answered.strip()) for one in read]
        found = [(one.row, text) for one, text in texts if HOLE.fullmatch(text) and text not in one.asked]
        if len(found) >= max(LEAST, SHARE * len(read)):
            row, text = found[0]
            yield Finding(
                message=f"{len(found)} of {len(read)} answers of {source.label} that were looked at are a placeholder "
                f"alone: {text!r}.",
                fix="Fill these answers where the rows are made, or remove the rows.",
                where=Where(file=source.label, row=row, key=source.key),
                evidence=tuple(f"row {row}" for row, _ in found[:5]),
            )


@answers_are_placeholders.fault
def some_answers_are_names_in_braces(world: World) -> None:
    for row in world.rows[::8]:
        row["completion"] = "{{ answer }}"
