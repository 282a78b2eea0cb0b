"""The prompt ends with its own answer.

Symptom: the loss is near 0 from the first steps on; asked without the answer, the model knows nothing.
Cause: the prompt was made from the whole text, or from a template that was filled with the answer too.
Fix: cut the answer off the prompts.
Prevention: look at a row with `ftrun preview`.
For PPO the columns with the answers that rewards compare with (`answer`, `solution`, `reference`) are held against the
prompts.
Source: told are answers of at least five words at the very end of their prompt, in half of the rows: an answer that
stands somewhere in its prompt may be what is to be found there. What stands before the answer has to differ from row to
row, as questions do: behind one and the same instruction stands a text to be corrected, which may need no correction.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.columns import read_first_rows
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import clip, last_exchange, parts_of, spread
from ftrun.checks.finding import Finding
from ftrun.checks.rows import SourceRows
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

HALF = 0.5
WORDS = 5
SAMPLE = 1024
NAMES = (
    "answer",
    "answers",
    "solution",
    "reference",
    "target",
    "label",
    "output",
    "completion",
    "response",
    "ground_truth",
    "gold",
    "expected",
)
"""What columns are called that a reward compares answers with."""

Asked = tuple[int, str, str]
"""The number of a row, what it asks last, and its answer."""


@check(
    "DATA054",
    title="no prompt ends with its answer",
    severity="warning",
)
def answer_stands_in_prompt(at: AtData) -> Iterator[Finding]:
    sources = [one for one in at.sources if one.format != "text"]
    if not sources:
        raise NotApplicable("no source has prompts and answers")
    for source in sources:
        asks = source.loss_on == "nothing"
        exchanges = _read_columns(at, source) if asks else _read_answers(source)
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
                where=Where(file=source.label, row=row, key=source.key),
                evidence=(f"prompt {clip(asked)}, answer {clip(answered, 80)}",),
            )


def _read_answers(source: SourceRows) -> list[Asked]:
    rows = (spread(len(source.examples) // source.sides, SAMPLE) * source.sides).tolist()
    return [(source.numbers[row], *last_exchange(source.examples[row])) for row in rows]


def _read_columns(at: AtData, source: SourceRows) -> list[Asked]:
    """What prompts ask last, and what a column that is called like an answer has beside them."""
    head = next((one for one in at.heads if one.key == source.key and one.place == "file"), None)
    name = next((name for name in source.columns if name.lower() in NAMES), None)
    if head is None or name is None:
        return []
    answers = [row.get(name) for row in read_first_rows(Path(head.looked_for), SAMPLE)]
    return [
        (number, next((part.text for part in reversed(parts_of(example, "all"))), "").strip(), answer.strip())
        for number, example in zip(source.numbers[:SAMPLE], source.examples[:SAMPLE], strict=True)
        if number <= len(answers) and isinstance(answer := answers[number - 1], str)
    ]


@answer_stands_in_prompt.fault
def prompts_are_whole_texts(world: World) -> None:
    for row in world.rows:
        row["prompt"] += f"Answer: {row['completion']}\n"


@answer_stands_in_prompt.fault
def the_answer_that_is_compared_with(world: World) -> None:
    from ftrun.checks.testing import ppo_full, sft_full

    answers = [row["completion"] for row in sft_full(world.folder).rows]
    healthy = ppo_full(world.folder)
    world.recipe, world.rows = healthy.recipe, healthy.rows
    for row, answer in zip(world.rows, answers, strict=True):
        row |= {"prompt": f"{row['prompt']}{answer}", "answer": answer}
