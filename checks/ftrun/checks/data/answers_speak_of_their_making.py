"""Answers hold what a generator was told, or what it said to itself.

Symptom: the model opens with its instructions, or talks about its user instead of to them.
Cause: synthetic answers were stored with the generator's system prompt, or with its reasoning, of which only the tags
were taken out.
Fix: cut these openings off, or generate the answers again without them.
Prevention: store reasoning and answer apart.
Source: told are answers that open by telling the reader that they are an assistant (`You are a helpful assistant`), or
by thinking about "the user" outside of any tags, in 2 % of the rows; prompts that want a prompt, a role or a character
do not count. Of 1,597 answers of Alpaca and judged pairs none opens so. Refusals and `As an AI language model` are
left alone: 2 % of Alpaca are that, and data to decline with are more.
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

SHARE = 0.02
TOLD = re.compile(
    r"\W*(?:system ?(?:prompt)?:?\s*)?you are (?:an? |the )?(?:[\w-]+,? ){0,4}"
    r"(?:assistant|chatbot|language model|AI)\b",
    re.IGNORECASE,
)
THOUGHT = re.compile(
    r"\s*(?:okay|ok|alright|hmm)\b.{0,80}\bthe user\b|"
    r".{0,60}\bthe user(?:'s (?:question|request|asking)| is asking| asks| asked| wants (?:me|to know))\b",
    re.IGNORECASE,
)
TASK = re.compile(
    r"prompt|persona|role|character|system message|rewrite|translate|the user|chat ?bot|instructions for",
    re.IGNORECASE,
)


@check(
    "DATA073",
    title="answers do not speak of their making",
    severity="warning",
    methods=("sft", "reward", "dpo"),
)
def answers_speak_of_their_making(at: AtData) -> Iterator[Finding]:
    for pattern, what in (
        (TOLD, "open with the instructions of an assistant"),
        (THOUGHT, "open with thoughts about the user, outside of any tags"),
    ):

        def opens_so(one: Exchange, pattern: re.Pattern[str] = pattern) -> bool:
            return bool(pattern.match(one.answered)) and not TASK.search(one.asked)

        yield from tell_answers(
            at.sources,
            opens_so,
            share=SHARE,
            what=what,
            fix="Cut these openings off where the rows are made, or generate the answers again without them.",
        )


@answers_speak_of_their_making.fault
def the_system_prompt_is_answered(world: World) -> None:
    for row in world.rows:
        row["completion"] = f"You are a helpful assistant.\n{row['completion']}"


@answers_speak_of_their_making.fault
def tags_of_thoughts_were_taken_out(world: World) -> None:
    for row in world.rows[::2]:
        row["completion"] = f"Okay, so the user wants to know a colour.\n{row['completion']}"
