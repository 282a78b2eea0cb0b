"""Tags of reasoning or of a tool call are opened and never closed, or closed without being opened.

Symptom: the model reasons without end, or what shows its answers takes them for reasoning and shows nothing.
Cause: generations were cut within their reasoning; or one of the two tags was taken out by a filter, a regular
expression or a tokenizer that skips special tokens.
Fix: remove these rows, or take the reasoning out whole.
Prevention: drop generations that did not end by themselves, and treat both tags alike.
Source: told are the usual tags (`<think>`, `<reasoning>`, `<answer>`, `<tool_call>` and the like) that are open at the
end of 1 % of the answers. Without its opening tag an answer counts only beside others that have both: some chat
templates write the opening one. Of 10,389 answers of Alpaca, GSM8K and judged pairs none has such tags.
"""

from __future__ import annotations

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

SHARE = 0.01
NAMES = (
    "think|thinking|thought|thoughts|reasoning|reason|scratchpad|reflection|analysis|answer|final_answer|solution|"
    "tool_call|function_call"
)
TAG = re.compile(rf"<(/?)({NAMES})>", re.IGNORECASE)


@check("DATA061", title="tags in answers are closed", severity="warning", methods=("sft", "reward", "dpo"))
def tags_left_open(at: AtData) -> Iterator[Finding]:
    for source in with_answers(at.sources):
        read = read_exchanges(source)
        opened = [one for one in read if _excess(one) > 0]
        closed = [one for one in read if _excess(one) < 0]
        whole = any(TAG.search(one.answered) and _excess(one) == 0 for one in read)
        wrong = opened + closed if whole else opened
        if len(wrong) > FEW and len(wrong) >= SHARE * len(read):
            what = (
                "open a tag and do not close it" if wrong[0] in opened else "close a tag that is not opened"
            )
            yield Finding(
                message=f"{len(wrong)} of {len(read)} answers of {source.label} that were looked at {what}.",
                fix="Remove these rows, or take what stands between the tags out whole.",
                where=Where(file=source.label, row=wrong[0].row, key=source.key),
                evidence=tuple(f"row {one.row}: {clip(one.answered)}" for one in wrong[:3]),
            )


def _excess(exchange: Exchange) -> int:
    """How many more tags are opened than closed."""
    return sum(-1 if slash else 1 for slash, _ in TAG.findall(exchange.answered))


@tags_left_open.fault
def a_third_of_the_thoughts_stays_open(world: World) -> None:
    for number, row in enumerate(world.rows):
        end = "" if number % 3 == 0 else "</think>\n"
        row["completion"] = f"<think>It is a thing of the house.{end} {row['completion']}"


@tags_left_open.fault
def a_filter_took_the_first_tag(world: World) -> None:
    for number, row in enumerate(world.rows):
        begin = "" if number % 3 == 0 else "<think>"
        row["completion"] = f"{begin}It is a thing of the house.</think> {row['completion']}"
