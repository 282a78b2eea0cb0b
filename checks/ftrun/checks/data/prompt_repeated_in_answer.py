"""The prompt stands in the answer once more.

Symptom: the prompt is twice in what the model reads, and what it scores or learns to write begins with it.
Cause: data sets that hold whole conversations in chosen and rejected, or whole texts in the completion, beside a column
for the prompt; or one column that is taken for both.
Fix: leave out the prompt column (what both sides begin with is taken for the prompt), or cut it off the answers.
Source: trl#6433 and the data sets of the alignment handbook. More than 5 % of the pairs is a warning; from half of
them on, it is how the file is made: an error. Outside pairs half of the rows is a warning: to repeat is a task too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.examples import clip, is_chat, last_exchange, squeeze
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

MANY, SOME = 0.50, 0.05
SHORT = 12
"""Characters, without white space, of a prompt that an answer may repeat by chance: `Hello!`, `Good morning`."""


@check(
    "DATA043",
    title="no answer repeats its prompt",
    severity="warning",
    methods=("dpo", "reward", "sft"),
)
def prompt_repeated_in_answer(at: AtData) -> Iterator[Finding]:
    for source in at.sources:
        rows = [
            source.examples[first : first + source.sides]
            for first in range(0, len(source.examples), source.sides)
        ]
        found = [number for number, sides in enumerate(rows) if any(map(_repeats, sides))]
        if len(found) <= (SOME if source.sides > 1 else MANY) * len(rows):
            continue
        if source.sides == 1 and not all(map(_goes_on, (rows[number][0] for number in found))):
            continue  # texts to be corrected, of which some need no correction
        example = next(one for one in rows[found[0]] if _repeats(one))
        row = source.numbers[found[0] * source.sides]
        yield Finding(
            message=f"In {len(found)} of {len(rows)} rows of {source.label} an answer begins with its prompt.",
            fix=f"Remove the prompt from the answers of {source.label}, or leave out its column for the prompt.",
            where=Where(file=source.label, row=row, key=source.key),
            evidence=(f"row {row}: {clip(last_exchange(example)[1])}",),
            severity="error" if source.sides > 1 and len(found) > MANY * len(rows) else "warning",
        )


def _repeats(example: Mapping[str, Any]) -> bool:
    """Whether the answer begins with the prompt, or with one of the messages before it that is no answer."""
    asked, answered = last_exchange(example)
    if "completion" in example and is_chat(example) and example["completion"][:1]:
        first = example["completion"][0]
        if first["role"] != "assistant":
            return first in [one for one in example["prompt"] if one["role"] != "assistant"]
    return _begins_with(answered, asked)


def _goes_on(example: Mapping[str, Any]) -> bool:
    """Whether the answer is more than the prompt."""
    asked, answered = last_exchange(example)
    return len(squeeze(answered)) > len(squeeze(asked))


def _begins_with(answer: str, prompt: str) -> bool:
    asked = squeeze(prompt)
    return len(asked) >= SHORT and squeeze(answer).startswith(asked)


@prompt_repeated_in_answer.fault
def answers_are_whole_texts(world: World) -> None:
    for row in world.rows:
        row["chosen"] = row["prompt"] + row["chosen"]
        row["rejected"] = row["prompt"] + row["rejected"]


@prompt_repeated_in_answer.fault
def one_side_is_a_whole_conversation(world: World) -> None:
    from ftrun.checks.testing import dpo_chat

    world.rows = dpo_chat(world.folder).rows
    for row in world.rows:
        row["rejected"] = [row["prompt"][-1], *row["rejected"]]


@prompt_repeated_in_answer.fault
def completions_are_whole_texts(world: World) -> None:
    from ftrun.checks.testing import sft_full

    other = sft_full(world.folder)
    world.recipe, world.rows = other.recipe, other.rows
    for row in world.rows:
        row["completion"] = row["prompt"] + row["completion"]
