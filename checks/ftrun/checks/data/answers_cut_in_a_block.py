"""Answers break off within JSON or within a block of code.

Symptom: what reads the model's answers as JSON fails, or shows the rest of a page as code.
Cause: answers were generated with a budget of tokens that some of them used up, or were cut by an export.
Fix: remove these answers, or generate them again with a larger budget.
Prevention: parse what is to be parsed where the rows are made, and drop what did not end by itself.
Source: told are answers that begin like JSON and end before it does, in 1 % of the rows, where half of the answers are
whole JSON; and answers that open a block with three backticks and do not close it, in 2 % of the rows. Where it is most
of the answers, the closing backticks may be what generation stops on; and a prompt may have opened the block. Of 10,389
answers of Alpaca, GSM8K and judged pairs none is the first, 4 are the second.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.examples import clip
from ftrun.checks.exchanges import FEW, Exchange, read_exchanges, with_answers
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

JSON, FENCES, HALF = 0.01, 0.02, 0.5
FENCE = re.compile(r"^[ \t>]*```(?!`)([^`\n]*)$", re.MULTILINE)
OTHER_FENCE = re.compile(r"^[ \t>]*(?:````|~~~)", re.MULTILINE)
UNENDED = ("Unterminated string", "Expecting")
"""How the errors of `json` begin where the text ends too early, if they are at its end."""


@check(
    "DATA097",
    title="JSON and blocks of code in answers are whole",
    severity="warning",
    methods=("sft", "reward", "dpo"),
)
def answers_cut_in_a_block(at: AtData) -> Iterator[Finding]:
    for source in with_answers(at.sources):
        read = read_exchanges(source)
        whole = sum(_is_json(one.answered.strip()) for one in read)
        cut = [one for one in read if _is_cut_json(one.answered.strip())] if whole >= HALF * len(read) else []
        opened = [one for one in read if _is_open(one)]
        closed = sum(_fences(one) > 0 and not _is_open(one) for one in read)
        if closed < len(opened) > HALF * len(read):
            opened = []
        for wrong, share, what in (
            (cut, JSON, "begin as JSON and end before it does"),
            (opened, FENCES, "open a block with ``` and do not close it"),
        ):
            if len(wrong) > FEW and len(wrong) >= share * len(read):
                yield Finding(
                    message=f"{len(wrong)} of {len(read)} answers of {source.label} that were looked at {what}: they "
                    "were cut.",
                    fix="Remove the answers that were cut, or generate them again with a larger budget of tokens.",
                    where=Where(file=source.label, row=wrong[0].row, key=source.key),
                    evidence=tuple(f"row {one.row} ends {clip(one.answered[-80:])}" for one in wrong[:3]),
                )


def _is_json(text: str) -> bool:
    if text[:1] not in ("{", "["):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_cut_json(text: str) -> bool:
    """Whether the one thing that is wrong with a text of JSON is that it ends."""
    if text[:1] not in ("{", "["):
        return False
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        is_at_end = error.pos >= len(text) or error.msg.startswith("Unterminated string")
        return is_at_end and error.msg.startswith(UNENDED) and not text.endswith(("}", "]"))
    except RecursionError:
        pass
    return False


def _fences(exchange: Exchange) -> int:
    return len(FENCE.findall(exchange.answered))


def _is_open(exchange: Exchange) -> bool:
    """Whether the answer opens a block that it leaves open, and the prompt none."""
    text = exchange.answered
    if "```" not in text or OTHER_FENCE.search(text) or len(FENCE.findall(exchange.asked)) % 2:
        return False
    return _fences(exchange) % 2 == 1 and text.count("```") % 2 == 1 and not text.rstrip().endswith("```")


@answers_cut_in_a_block.fault
def a_quarter_of_the_json_is_cut(world: World) -> None:
    for number, row in enumerate(world.rows):
        text = json.dumps({"colour": row["completion"], "sure": True})
        row["completion"] = text if number % 4 else text[: len(text) // 2]


@answers_cut_in_a_block.fault
def a_quarter_of_the_code_is_cut(world: World) -> None:
    for number, row in enumerate(world.rows):
        end = "\n```" if number % 4 else ""
        row["completion"] = f"Here it is:\n```python\nprint('{row['completion']}'){end}"
