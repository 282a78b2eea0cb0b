"""The prompt stands in the answer once more.

Symptom: the prompt is twice in what the model reads, and what it scores or learns to write begins with it.
Cause: data sets that hold whole conversations in chosen and rejected, beside a column for the prompt.
Fix: leave out the prompt column (what both sides begin with is taken for the prompt), or cut it off the answers.
Source: trl#6433 and the data sets of the alignment handbook. More than 5 % of the pairs is a warning; from half of
them on, it is how the file is made: an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.examples import clip, is_chat, squeeze, texts_of
from ftrun.checks.finding import Finding
from ftrun.checks.rows import SourceRows
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
    methods=("reward", "dpo"),
)
def prompt_repeated_in_answer(at: AtData) -> Iterator[Finding]:
    for source in at.sources:
        found = [
            number
            for number in range(0, len(source.examples), 2)
            if any(_repeats(example) for example in source.examples[number : number + 2])
        ]
        pairs = len(source.examples) // 2
        if len(found) <= SOME * pairs:
            continue
        yield Finding(
            message=f"In {len(found)} of {pairs} pairs of {source.label} an answer begins with its prompt.",
            fix=f"Remove the prompt from the answers of {source.label}, or leave out its column for the prompt.",
            where=Where(file=source.label, row=source.numbers[found[0]], key=source.key),
            evidence=(_show(source, found[0]),),
            severity="error" if len(found) > MANY * pairs else "warning",
        )


def _repeats(example: Mapping[str, Any]) -> bool:
    """Whether the answer begins with the prompt, or with one of the messages before it that is no answer."""
    prompt, answer = example["prompt"], example["completion"]
    if not is_chat(example):
        return _begins_with(answer, prompt)
    asked = [one for one in prompt if one["role"] != "assistant"]
    if not asked or not answer:
        return False
    if answer[0]["role"] != "assistant":
        return answer[0] in asked
    return _begins_with(*("".join(texts_of(one)) for one in (answer[0], asked[-1])))


def _begins_with(answer: str, prompt: str) -> bool:
    asked = squeeze(prompt)
    return len(asked) >= SHORT and squeeze(answer).startswith(asked)


def _show(source: SourceRows, number: int) -> str:
    example = next(one for one in source.examples[number : number + 2] if _repeats(one))
    answer = example["completion"]
    text = "".join(part for one in answer for part in texts_of(one)) if is_chat(example) else answer
    return f"row {source.numbers[number]}: {clip(text)}"


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
