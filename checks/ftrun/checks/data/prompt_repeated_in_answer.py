"""The prompt stands in the answer once more.

Symptom: the prompt is twice in what the model reads, and what it scores or learns to write begins with it.
Cause: data sets that hold whole conversations in chosen and rejected, or whole texts in the completion, beside a column
for the prompt; or one column that is taken for both.
Fix: leave out the prompt column (what both sides begin with is taken for the prompt), or cut it off the answers.
Source: trl#6433 and the data sets of the alignment handbook. More than 5 % of the pairs is a warning; from half of
them on, it is how the file is made: an error. Outside pairs half of the rows is a warning: to repeat is a task too. So
are 3 % of them whose prompt of at least five words is no code and asks for no repetition, where the other answers begin
unlike their prompts: where they begin alike, texts are corrected or continued.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.examples import clip, is_chat, last_exchange, spread, squeeze
from ftrun.checks.exchanges import FEW, SAMPLE
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

MANY, SOME, SLIPPED = 0.50, 0.05, 0.03
ALIKE = 0.02
"""Share of other answers that may begin like their prompts by chance."""

WORDS = 5
TASK = re.compile(
    r"\b(?:repeat|echo|copy|continue|complete|finish|extend|correct|fix|proofread|rewrite|rephrase|translat\w*|edit|"
    r"restate|quote)\b|^\s*(?:(?:def|class|import|from|function|public|const|let|var|select)\b|#include|[<{@])",
    re.IGNORECASE | re.MULTILINE,
)
"""What asks for its own text, or is code, which answers go on with."""

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
        many = len(found) > (SOME if source.sides > 1 else MANY) * len(rows)
        if source.sides == 1 and not (many and all(_goes_on(rows[number][0]) for number in found)):
            # Of texts to be corrected, some need no correction.
            found = _slipped(rows, found)
        elif not many:
            continue
        if not found:
            continue
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


def _slipped(rows: Sequence[Sequence[Mapping[str, Any]]], found: Sequence[int]) -> list[int]:
    """Of the rows whose answer repeats its prompt, those that do so by mistake; none where many others begin alike."""
    wrong = [number for number in found if _says_more_than_its_text(last_exchange(rows[number][0])[0])]
    if len(wrong) <= max(FEW, SLIPPED * len(rows)):
        return []
    marked = set(found)
    others = [number for number in spread(len(rows), SAMPLE).tolist() if number not in marked]
    alike = 0
    for number in others:
        asked, answered = map(squeeze, last_exchange(rows[number][0]))
        alike += len(asked) >= SHORT and answered[:SHORT].lower() == asked[:SHORT].lower()
    return wrong if alike <= ALIKE * len(others) else []


def _says_more_than_its_text(asked: str) -> bool:
    return len(asked.split()) >= WORDS and TASK.search(asked) is None


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


@prompt_repeated_in_answer.fault
def some_answers_are_their_questions(world: World) -> None:
    from ftrun.checks.testing import sft_chat

    other = sft_chat(world.folder)
    world.recipe, world.rows = other.recipe, other.rows
    for row in world.rows[::4]:
        row["messages"][-1]["content"] = row["messages"][-2]["content"]
