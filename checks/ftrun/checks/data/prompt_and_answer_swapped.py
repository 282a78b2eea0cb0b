"""Prompt and answer seem to be swapped.

Symptom: the model answers a question with a question.
Cause: `columns:` maps the answers to `prompt` and the questions to `completion`, or the file has them so.
Fix: exchange the two under `columns:`.
Prevention: look at a row with `ftrun preview`.
Source: told are columns whose own names say the opposite of what they are mapped to; and rows of which 95 % ask
(end with a question mark) in their answer and at most 5 % in their prompt, where no prompt speaks of questions: to
write a question is a task too. Rows with roles, and prompts that all begin or end with the same words, are not judged
by their texts: these are no answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.columns import SYNONYMS
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import clip, is_chat, last_exchange, spread
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.rows import SourceRows
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

NEARLY_ALL, HARDLY_ANY = 0.95, 0.05
ENOUGH = 16
"""Rows below which nothing is concluded from what they say."""

FRAME = 8
"""Characters that all prompts begin or end with, and answers do not."""

SAMPLE = 512
MARKS = ("?", "\uff1f", "\u061f")
"""Question marks: of most scripts, full width, Arabic."""

EITHER_WAY = {"source", "target", "input", "output"}
"""Names that are given in either direction: a translation is trained both ways."""

ASKS = ("question", "ask", "quiz", "query", "frage", "pregunta", "вопрос", "问题", "質問")
"""Words of a prompt that wants a question for an answer."""


@check("DATA026", title="prompt and answer are not swapped", severity="warning", methods=("sft",))
def prompt_and_answer_swapped(at: AtData) -> Iterator[Finding]:
    sources = [one for one in at.sources if one.format in ("prompt_completion", "alpaca") and one.examples]
    if not sources:
        raise NotApplicable("no source has a prompt and an answer")
    for source in sources:
        mapping = _mapping(at, source)
        if _names_say_the_opposite(mapping):
            exchanged = {**mapping, "prompt": mapping["completion"], "completion": mapping["prompt"]}
            yield Finding(
                message=f"{source.label}: the column {mapping['prompt']} is the prompt and {mapping['completion']} the "
                "answer; their names say the opposite.",
                fix=f"Write `columns: {{prompt: {exchanged['prompt']}, completion: {exchanged['completion']}}}`.",
                where=at.where(f"{source.key}.columns"),
                patch=Patch(f"{source.key}.columns", exchanged),
            )
        else:
            yield from _judge_texts(source)


def _mapping(at: AtData, source: SourceRows) -> Mapping[str, str]:
    section, _, index = source.key.removeprefix("data.").partition(".")
    written: Mapping[str, str] = getattr(at.recipe.data, section)[int(index)].columns
    return written


def _names_say_the_opposite(mapping: Mapping[str, str]) -> bool:
    prompt, answer = mapping.get("prompt", "").lower(), mapping.get("completion", "").lower()
    if {prompt, answer} & EITHER_WAY:
        return False
    return prompt in ("completion", *SYNONYMS["completion"], "a") and answer in (
        "prompt",
        *SYNONYMS["prompt"],
        "q",
    )


def _judge_texts(source: SourceRows) -> Iterator[Finding]:
    chosen = [source.examples[int(i)] for i in spread(len(source.examples), SAMPLE)]
    has_roles = source.format != "alpaca" and any(map(is_chat, chosen))
    if len(chosen) < ENOUGH or has_roles:
        return
    texts = [_texts(example) for example in chosen]
    if _are_framed([prompt for prompt, _ in texts]):
        return
    asked = sum(answer.endswith(MARKS) for _, answer in texts)
    asking = sum(
        prompt.endswith(MARKS) or any(word in prompt.lower() for word in ASKS) for prompt, _ in texts
    )
    if asked < NEARLY_ALL * len(texts) or asking > HARDLY_ANY * len(texts):
        return
    yield Finding(
        message=f"{asked} of {len(texts)} answers of {source.label} that were looked at end with a question mark, and "
        f"{asking} prompts ask: prompt and answer seem to be swapped.",
        fix="Exchange the columns: `columns: {prompt: completion, completion: prompt}`.",
        where=Where(file=source.label, row=source.numbers[0], key=source.key),
        evidence=tuple(
            f"prompt {clip(prompt, 60)}, answer {clip(answer, 60)}" for prompt, answer in texts[:2]
        ),
    )


def _are_framed(prompts: Sequence[str]) -> bool:
    """Whether an instruction, or a label such as `Student:`, stands before or behind all of them."""
    return (
        len({prompt[:FRAME] for prompt in prompts}) == 1 or len({prompt[-FRAME:] for prompt in prompts}) == 1
    )


def _texts(example: Mapping[str, Any]) -> tuple[str, str]:
    """What is asked last and what is answered last, without quotes around them."""
    asked, answered = last_exchange(example)
    return asked.strip(" \n\t\"'"), answered.strip(" \n\t\"'")


@prompt_and_answer_swapped.fault
def columns_are_mapped_the_other_way_round(world: World) -> None:
    world.rows = [{"question": row["prompt"], "answer": row["completion"]} for row in world.rows]
    world.recipe["data"]["train"][0]["columns"] = {"prompt": "answer", "completion": "question"}


@prompt_and_answer_swapped.fault
def answers_ask_and_prompts_tell(world: World) -> None:
    world.rows = [{"prompt": row["completion"], "completion": row["prompt"].strip()} for row in world.rows]


@prompt_and_answer_swapped.fault
def letters_are_mapped_the_other_way_round(world: World) -> None:
    world.rows = [{"q": row["prompt"], "a": row["completion"]} for row in world.rows]
    world.recipe["data"]["train"][0]["columns"] = {"prompt": "a", "completion": "q"}
