"""The examples in a prompt give the answer of the row itself.

Symptom: the loss is near 0 from the first steps on; in use, where the examples are of other questions, the model copies
them.
Cause: the examples were drawn from all rows, that of the prompt among them; or a retrieval finds the row itself.
Fix: draw the examples of a prompt from the other rows.
Prevention: look at a row with `ftrun preview`.
Source: told are answers of at least five words that stand in their prompt behind a label such as `Answer:`, with
something else behind them, in 30 % of the rows: what is to be found in a text stands there without a label. Behind a
label such as `Reference:` or `Expected answer:`, and alone on its lines, 5 % are told: a draft is not called so.
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

SHARE, TRUE = 0.3, 0.05
WORDS = 5
LABEL = re.compile(
    r"\b(?:answer|response|output|completion|solution|assistant|A)\s*:\s*[\"']?$", re.IGNORECASE
)
TRUTH = re.compile(
    r"\b(?:reference|(?:expected|correct|gold|target|model|reference) (?:answer|output|response)|ground[ _]truth)"
    r"\s*:\s*$",
    re.IGNORECASE,
)


@check(
    "DATA080",
    title="examples in prompts are of other rows",
    severity="warning",
    methods=("sft", "reward", "dpo"),
)
def examples_give_answer(at: AtData) -> Iterator[Finding]:
    found = list(
        tell_answers(
            at.sources,
            _is_given,
            share=SHARE,
            what="stand in their own prompt, behind the label of an answer",
            fix="Draw the examples in a prompt from other rows than the one that it asks.",
        )
    )
    yield from found or tell_answers(
        at.sources,
        _is_the_reference,
        share=TRUE,
        what="stand in their own prompt, behind the label of a reference",
        fix="Cut the reference out of the prompts.",
    )


def _is_given(exchange: Exchange) -> bool:
    answer, asked = exchange.answered.strip(), exchange.asked.rstrip()
    place = asked.find(answer)
    if place < 0 or len(answer.split()) < WORDS or asked.endswith(answer):
        return False
    return LABEL.search(asked[:place]) is not None


def _is_the_reference(exchange: Exchange) -> bool:
    answer, asked = exchange.answered.strip(), exchange.asked
    place = asked.find(answer)
    if place < 0 or len(answer.split()) < WORDS:
        return False
    is_alone = asked[place + len(answer) :].lstrip(" ")[:1] in ("", "\n")
    return is_alone and TRUTH.search(asked[:place]) is not None


@examples_give_answer.fault
def examples_are_drawn_from_all_rows(world: World) -> None:
    for row in world.rows:
        asked = row["prompt"]
        row["prompt"] = f"An example.\nQ: {asked}A: {row['completion']}\n\nNow this one: {asked}"


@examples_give_answer.fault
def the_reference_is_shown_in_some(world: World) -> None:
    for row in world.rows[::4]:
        row["prompt"] = f"{row['prompt']}Reference: {row['completion'].strip()}\nAnswer:"
