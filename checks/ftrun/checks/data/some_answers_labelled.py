"""Some answers begin with the label of their speaker.

Symptom: now and then the model begins with `Assistant:` or `### Response:`, and a judge or a reward learns the label.
Cause: one source was made from transcripts, or with a template for a model that has no chat template, and the label
stayed on the answer.
Fix: cut the labels off where the rows are made.
Prevention: count the first words of the answers of a file, and of each side of its pairs.
Source: told are labels such as `Assistant:`, `AI:`, `### Response:` or `### Answer:` that 3 % of the answers of a
source, or of one side of its pairs, begin with, and six of them, where most do not. An answer in which other lines have
labels too is a form or a scene, and where the prompt ends with the label, has it or speaks of a dialogue, it is the
task. That most answers of conversations have one is told by DATA058. Of 10,389 answers of Alpaca, GSM8K and judged
pairs one has such a label.
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

SOME, HALF = 0.03, 0.5
SIDES = ("chosen", "rejected")
LABEL = re.compile(
    r"\s*(?:(?:assistant|ai|bot|gpt|chatgpt|human|user)\s*:|#{2,4} ?(?:response|answer|assistant|output)\s*:?\s*\n)",
    re.IGNORECASE,
)
ANOTHER = re.compile(r"\n\s*(?:#+ )?\w[\w ]{0,20}:|\n#")
"""A further line with a label: `Year: 2013`, `Bot: Welcome.`"""

SCENE = re.compile(
    r"dialog|conversation|\bchat|script|\bscene|interview|transcript|role|\bbot\b|\bAI\b|assistant:|acronym|stand for|"
    r"respond as|format|markdown|###",
    re.IGNORECASE,
)


@check(
    "DATA100",
    title="no part of the answers begins with a label",
    severity="warning",
    methods=("sft", "reward", "dpo"),
)
def some_answers_labelled(at: AtData) -> Iterator[Finding]:
    for source in with_answers(at.sources):
        for side in range(source.sides):
            read = read_exchanges(source, side)
            labelled = [one for one in read if _is_labelled(one)]
            if len(labelled) > max(FEW, SOME * len(read)) and len(labelled) < HALF * len(read):
                kind = "answers" if source.sides == 1 else f"{SIDES[side]} answers"
                yield Finding(
                    message=f"{len(labelled)} of {len(read)} {kind} of {source.label} that were looked at begin with "
                    f"the label of a speaker, {clip(labelled[0].answered, 40)}, and the others do not.",
                    fix="Cut these labels off where the rows are made.",
                    where=Where(file=source.label, row=labelled[0].row, key=source.key),
                    evidence=tuple(f"row {one.row}: {clip(one.answered, 80)}" for one in labelled[:3]),
                )


def _is_labelled(exchange: Exchange) -> bool:
    label = LABEL.match(exchange.answered)
    if label is None or SCENE.search(exchange.asked):
        return False
    return not ANOTHER.search(exchange.answered[label.end() :])


@some_answers_labelled.fault
def a_third_has_the_label_of_a_template(world: World) -> None:
    for row in world.rows[::3]:
        row["completion"] = f"### Response:\n{row['completion'].strip()}"


@some_answers_labelled.fault
def one_side_has_it_now_and_then(world: World) -> None:
    from ftrun.checks.testing import dpo_full

    other = dpo_full(world.folder)
    world.recipe, world.rows = other.recipe, other.rows
    for row in world.rows[::3]:
        row["chosen"] = f"Assistant: {row['chosen'].strip()}"
