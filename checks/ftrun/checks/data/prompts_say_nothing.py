"""One and the same prompt is answered in many ways.

Symptom: the loss stays at that of the answers alone; asked anything, the model writes one of the answers it has seen.
Cause: `columns:` names a column that is the same in each row (`Answer the question.`), and the one with the question is
not read; or rows without a prompt were given a default (`Hello`).
Fix: name the column with the questions under `columns:`, or remove the rows that had none.
Prevention: count the different prompts of a file.
Source: from 10 % of the rows on, and 16 of them, with nine different answers to ten prompts. It is a warning where such
a prompt refers to what it does not hold (`the text`, `this question`), or is one or two words among prompts that
otherwise differ, and its answers have hardly a long word in common. Else it is an info: `Tell me a joke` has many
answers, and a file may be about one prompt. A hundred pairs with one prompt in all, in English, that asks for nothing
new each time are a warning as well: nothing is learnt about which answer suits which prompt.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.examples import clip
from ftrun.checks.exchanges import Exchange, read_exchanges, with_answers
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

SHARE, HALF, NEARLY_ALL = 0.1, 0.5, 0.9
ENOUGH = 16
WORDS = 12
"""Words of an answer, on average, that is no mere greeting or name."""

APART = 0.1
"""Share of long words that two answers to the same question have in common at least."""

SHORT, LONGEST = 2, 40
"""Words of a prompt that asks nothing; and of one that can hold no text beside its instruction."""

PAIRS = 100
ENGLISH = re.compile(r"\b(?:the|is|are|and|of|to|in|what|how|my)\b", re.IGNORECASE)
REFERS = re.compile(
    r"\b(?:the|this|that|these|following|above|below|given|provided)\s+"
    r"(?:question|text|passage|document|context|article|paragraph|sentence|input|message|review|e-?mail|ticket|"
    r"conversation|dialogue|snippet|problem|instruction|abstract|report)s?\b",
    re.IGNORECASE,
)
INVENTS = re.compile(
    r"\b(?:write|generate|create|compose|invent|continue|jokes?|story|stories|poems?|haikus?|tweets?|random|next|names?|"
    r"quotes?|titles?|facts?|ideas?|tips?|riddles?|posts?|lyrics|songs?|recipes?)\b",
    re.IGNORECASE,
)
"""What is asked for anew each time."""


@check("DATA096", title="prompts say what is asked", severity="warning", methods=("sft", "reward", "dpo"))
def prompts_say_nothing(at: AtData) -> Iterator[Finding]:
    for source in with_answers(at.sources):
        read = read_exchanges(source)
        asked, count = max(
            Counter(one.asked for one in read).items(), key=lambda one: one[1], default=("", 0)
        )
        alike = [one for one in read if one.asked == asked]
        answers = {one.answered for one in alike}
        one_for_all = source.sides > 1 and count == len(read) >= PAIRS and ENGLISH.search(asked) is not None
        if not asked.strip() or count < max(ENOUGH, SHARE * len(read)):
            continue
        if len(answers) < NEARLY_ALL * count and not one_for_all:
            continue
        others = {one.asked for one in read if one.asked != asked}
        differ = len(others) >= HALF * (len(read) - count) > 0
        if others and not differ:
            continue  # a few prompts, each with many answers
        says_nothing = _refers(asked) or (differ and len(asked.split()) <= SHORT)
        is_fault = not INVENTS.search(asked) and (one_for_all or (says_nothing and _are_apart(alike)))
        yield Finding(
            message=f"{count} of {len(read)} rows of {source.label} that were looked at have one and the same prompt, "
            f"{clip(asked, 60)}, and {len(answers)} different answers.",
            fix="Name the column with what is really asked under `columns:`, or remove the rows that have no prompt.",
            where=Where(file=source.label, row=alike[0].row, key=source.key),
            evidence=tuple(f"row {one.row}: {clip(one.answered, 80)}" for one in alike[:3]),
            severity="warning" if is_fault else "info",
        )


def _refers(asked: str) -> bool:
    """Whether a prompt speaks of a text that it is too short to hold."""
    return len(asked.split()) <= LONGEST and REFERS.search(asked) is not None and ":\n" not in asked


def _are_apart(alike: Sequence[Exchange]) -> bool:
    """Whether the answers are long, and each about something else than the next."""
    words = [set(re.findall(r"\w{6,}", one.answered.lower())) for one in alike]
    length = sum(len(one.answered.split()) for one in alike) / len(alike)
    shared = [len(one & other) / max(1, min(len(one), len(other))) for one, other in pairwise(words)]
    return length >= WORDS and sum(share < APART for share in shared) >= HALF * len(shared)


@prompts_say_nothing.fault
def the_question_is_not_read(world: World) -> None:
    from ftrun.checks.testing import sft_chat

    world.rows = sft_chat(world.folder).rows
    for number, row in enumerate(world.rows):
        tail = " ".join(f"{letter * 6}{number}" for letter in "abcdefghijkl")
        row["messages"] = [
            {"role": "user", "content": "Answer the question."},
            {"role": "assistant", "content": f"{row['messages'][-1]['content']} {tail}"},
        ]


@prompts_say_nothing.fault
def rows_without_a_prompt_have_a_default(world: World) -> None:
    world.rows = [{**row, "prompt": f"{row['prompt']} {n}"} for n, row in enumerate(world.rows * 3)]
    for number, row in enumerate(world.rows):
        tail = " ".join(f"{letter * 6}{number}" for letter in "abcdefghijkl")
        if number % 3 == 0:
            row.update(prompt="Hello", completion=f"{row['completion']} {tail}")
