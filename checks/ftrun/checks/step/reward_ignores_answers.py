"""The reward does not depend on the answer, or a reward model not on the prompt.

Symptom: scores differ, so that all looks well, and the policy learns nothing, or to answer another question.
Cause: a reward function that reads the prompt or another column alone; a reward model whose chat template drops the
assistant's turn, or all but it; a reward model that cuts rows before the answer.
Fix: let the reward read `completions`; give the reward model the chat template that it was trained with.
Prevention: score a good answer and a bad one to the same prompt before you train.
Source: the answers of the first rollout are exchanged among its prompts, and scored again: prompts whose score does
not change although the answer does. Told is a part of the reward that tells prompts apart and does so for all of
them; and a reward model that scores every exchanged answer as it did with its own prompt. A function may read answers
alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtStep
from ftrun.checks.step.scores_change_when_asked_again import other_random_numbers

if TYPE_CHECKING:
    import torch

    from ftrun.checks.testing import World

LEAST = 4
"""Answers from which it says something."""

ROUNDING = 1e-5
"""Of the largest score: padding changes the last digits of what a model says."""


@check("PPO017", title="the reward depends on the answer", methods=("ppo",))
def reward_ignores_answers(at: AtStep) -> Iterator[Finding]:
    """Score the rollout of the dry step with its answers exchanged."""
    trainer: Any = at.trainer
    if "scores" not in trainer.seen:
        raise NotApplicable("the dry step ended before its answers were scored")
    answers = trainer.seen["answers"]
    others = [*answers[1:], *answers[:1]]
    differ = [i for i, (one, other) in enumerate(zip(answers, others, strict=True)) if one.text != other.text]
    if len(differ) < LEAST:
        raise NotApplicable("there are too few different answers")
    exchanged = [replace(other, example=one.example) for one, other in zip(answers, others, strict=True)]
    with other_random_numbers():  # what is drawn is PPO016's to tell
        first, again = trainer.seen["scores"].parts, trainer.reward.score(exchanged).parts
    for name, part in first.items():
        if _is_constant(part):
            continue
        if _are_alike(part[differ], again[name][differ]):
            yield Finding(
                f"The answers of the first rollout were exchanged among its prompts, and none of {len(differ)} "
                "scores of "
                f"{name} changed: the answer is not read.",
                "Let the reward read the completions, and give a reward model the chat template of its training.",
                at.where("reward"),
            )
        elif name == "models" and _are_alike(part.roll(-1), again[name]) and _has_prompts(answers):
            yield Finding(
                f"The answers of the first rollout were exchanged among its prompts, and each kept its score of "
                f"{name}: the "
                "prompt is not read.",
                "Give the reward model the chat template that it was trained with.",
                at.where("reward.models"),
                severity="warning",
            )


def _is_constant(part: torch.Tensor) -> bool:
    return float(part.std(correction=0)) <= ROUNDING * float(part.abs().max())


def _are_alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    return float((one - other).abs().max()) <= ROUNDING * float(one.abs().max())


def _has_prompts(answers: list[Any]) -> bool:
    prompts = [str(answer.example["prompt"]) for answer in answers]
    return all(one != other for one, other in zip(prompts, [*prompts[1:], prompts[0]], strict=True))


@reward_ignores_answers.fault
def the_function_reads_the_prompt_alone(world: World) -> None:
    (world.folder / "rewards.py").write_text(
        "def share_of_letters(completions, prompts):\n    return [float(sum(map(ord, text)) % 17) for text in "
        "prompts]\n",
        encoding="utf-8",
    )
    world.recipe["reward"]["penalties"] = None
