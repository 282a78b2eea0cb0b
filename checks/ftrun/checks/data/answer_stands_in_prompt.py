"""The prompt ends with its own answer.

Symptom: the loss is near 0 from the first steps on; asked without the answer, the model knows nothing.
Cause: the prompt was made from the whole text, or from a template that was filled with the answer too.
Fix: cut the answer off the prompts.
Prevention: look at a row with `ftrun preview`.
Source: told are answers of at least five words at the very end of their prompt, in half of the rows: an answer that
stands somewhere in its prompt may be what is to be found there. What stands before the answer has to differ from row to
row, as questions do: behind one and the same instruction stands a text to be corrected, which may need no correction.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import clip, last_exchange, spread
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

HALF = 0.5
WORDS = 5
SAMPLE = 1024


@check(
    "DATA054",
    title="no prompt ends with its answer",
    severity="warning",
    methods=("sft", "reward", "dpo"),
)
def answer_stands_in_prompt(at: AtData) -> Iterator[Finding]:
    sources = [one for one in at.sources if one.format != "text"]
    if not sources:
        raise NotApplicable("no source has prompts and answers")
    for source in sources:
        rows = (spread(len(source.examples) // source.sides, SAMPLE) * source.sides).tolist()
        exchanges = [(row, *last_exchange(source.examples[row])) for row in rows]
        found = [
            (row, asked, answered)
            for row, asked, answered in exchanges
            if len(answered.split()) >= WORDS and asked != answered and asked.endswith(answered)
        ]
        before = {asked.removesuffix(answered) for _, asked, answered in found}
        if found and len(found) >= HALF * len(exchanges) and len(before) >= HALF * len(found):
            row, asked, answered = found[0]
            yield Finding(
                message=f"{len(found)} of {len(exchanges)} prompts of {source.label} that were looked at end with "
                "their answer: there is nothing left to learn but to copy it.",
                fix=f"Cut the answers off the prompts of {source.label}.",
                where=Where(file=source.label, row=source.numbers[row], key=source.key),
                evidence=(f"prompt {clip(asked)}, answer {clip(answered, 80)}",),
            )


@answer_stands_in_prompt.fault
def prompts_are_whole_texts(world: World) -> None:
    for row in world.rows:
        row["prompt"] += f"Answer: {row['completion']}\n"
