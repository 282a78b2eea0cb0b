"""The answers of the first rollout have all the same score, or scores that are no numbers.

Symptom: whitened advantages are noise of the value model, and nothing is learnt; or the first NaN ends the run.
Cause: a reward function that looks for what no answer has yet, a reward model whose head was never trained, a rule
that falls on every answer, or half-precision overflow.
Fix: let the reward tell better answers from worse ones among those that the start writes; look at them in the finding.
Source: a spread of rewards under 0.1 as a sign of a dead or hacked reward; trl#1379, ms-swift#3926. Told is no spread
at all, one under 1e-4 without scaling, which a KL penalty of 0.001 a token outweighs, and one that `score_clip` cuts
off whole; and one above 1,000, to which the value model's loss is the square. Where the first answers score alike, 64
are asked for: of answers that earn something in one of twenty cases, so many score alike once in 27 times. It is a
warning where the reward pays the text of a prompt, of a column or of nothing otherwise, so that answers may come to
earn something.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import spread
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtModel, AtStep
from ftrun.checks.step.scores_change_when_asked_again import other_random_numbers

if TYPE_CHECKING:
    import torch

    from ftrun.checks.testing import World

LEAST = 4
"""Answers from which a constant score says something."""

RULES = ("repetition", "too_long", "too_short")
ENOUGH = 64
"""Answers that have to score alike."""

FAINT, HUGE = 1e-4, 1e3


@check("PPO009", title="the reward tells the first answers apart", methods=("ppo",))
def scores_all_alike(at: AtStep) -> Iterator[Finding]:
    """Read the scores of the rollout that the dry step made."""
    trainer: Any = at.trainer
    if "scores" not in trainer.seen:
        raise NotApplicable("the dry step ended before its answers were scored")
    scores, answers = trainer.seen["scores"], trainer.seen["answers"]
    if set(scores.parts) <= set(RULES):
        raise NotApplicable("rules alone score the answers")
    shown = tuple(f"{answer.text[:80]!r}" for answer in answers[:3])
    broken = {name: int((~part.isfinite()).sum()) for name, part in scores.parts.items()}
    if any(broken.values()):
        name = max(broken, key=broken.__getitem__)
        yield Finding(
            f"{broken[name]} of {len(answers)} scores of {name} are no numbers.",
            "Load the reward model in float32 or bfloat16, and let functions return finite numbers.",
            at.where("reward"),
            evidence=shown,
        )
    elif len(answers) >= LEAST and _is_constant(_paid(scores)):
        yield from _judge_more(at, shown)
    elif len(answers) >= LEAST:
        yield from _judge_spread(at, scores.total, shown)


def _paid(scores: Any) -> torch.Tensor:
    """What models and functions pay, without the rules."""
    import torch

    return torch.stack([part for name, part in scores.parts.items() if name not in RULES]).sum(0)


def _is_constant(scores: torch.Tensor) -> bool:
    return bool((scores == scores[0]).all())


def _judge_more(at: AtStep, shown: tuple[str, ...]) -> Iterator[Finding]:
    """Ask for further answers, since the first ones score alike."""
    trainer: Any = at.trainer
    scores, answers = trainer.seen["scores"], trainer.seen["answers"]
    with other_random_numbers():
        more = trainer.sample(spread(len(at.train), max(0, ENOUGH - len(answers))).tolist())
        first = _paid(scores)[0]
        if more and bool((_paid(trainer.reward.score(more)) != first).any()):
            return
        probed = _paid(trainer.reward.score([replace(answers[0], text=text) for text in _probe(answers)]))
    pays_others = bool((probed != first).any())
    if pays_others and not _is_constant(scores.total):
        return  # rules tell the answers apart until some earn more
    parts = ", ".join(
        f"{name} {float(part[0]):g}" for name, part in scores.parts.items() if _is_constant(part)
    )
    yield Finding(
        f"All {len(answers) + len(more)} first answers score alike ({parts}): there is nothing to learn from.",
        "Let reward: score what the model already does in different degrees.",
        at.where("reward"),
        evidence=shown,
        severity="warning" if pays_others else "error",
    )


def _probe(answers: Sequence[Any]) -> Iterator[str]:
    """Texts that are none of the answers: nothing, and what rows hold."""
    yield ""
    for answer in answers:
        columns = answer.example.get("columns", {})
        yield from (text for text in (answer.example["prompt"], *columns.values()) if isinstance(text, str))


def _judge_spread(at: AtStep, total: torch.Tensor, shown: tuple[str, ...]) -> Iterator[Finding]:
    """Differences that clipping takes away, or that are far below all that they stand beside."""
    training, spread = at.recipe.training, float(total.std(correction=0))
    if training["use_score_scaling"]:
        return
    most = training["score_clip"]
    if spread > HUGE and most is None:
        yield Finding(
            f"The scores of the first rollout differ by {spread:.3g} (standard deviation), and the value model's loss "
            "by its square: up to 10 is usual.",
            "Set training.use_score_scaling: true, or divide what the reward returns.",
            at.where("reward"),
            evidence=shown,
        )
    if most is not None and bool((total.abs() >= most).all()) and len(set((total > 0).tolist())) == 1:
        yield Finding(
            f"training.score_clip is {most:g}, and the scores of all {len(total)} answers of the first rollout "
            "are beyond "
            f"it, on the same side: each counts as {most if total[0] > 0 else -most:g}.",
            "Raise training.score_clip above the scores, or set training.use_score_scaling.",
            at.where("training.score_clip"),
            evidence=shown,
        )
    elif spread < FAINT:
        yield Finding(
            f"The scores of the first rollout differ by {spread:.2g} (standard deviation): the KL penalty, and "
            "the noise of "
            "values, are far above what answers earn.",
            "Set training.use_score_scaling: true, or let the reward tell answers apart.",
            at.where("reward"),
            evidence=shown,
            severity="warning",
        )


@scores_all_alike.fault
def the_function_looks_for_what_is_never_written(world: World) -> None:
    (world.folder / "rewards.py").write_text(
        "def share_of_letters(completions):\n"
        "    return [float('certainly' in text) for text in completions]\n",
        encoding="utf-8",
    )
    world.recipe["reward"]["penalties"] = None


@scores_all_alike.fault
def the_score_overflows(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        trainer: Any = at.trainer
        score = trainer.reward.score

        def overflow(answers: Any) -> Any:
            scores = score(answers)
            scores.parts["share_of_letters"].mul_(float("inf"))
            return scores

        object.__setattr__(trainer.reward, "score", overflow)
        return at

    world.after(AtModel, damage)


@scores_all_alike.fault
def scores_are_in_millionths(world: World) -> None:
    (world.folder / "rewards.py").write_text(
        "def share_of_letters(completions):\n    return [1e-6 * len(text) for text in completions]\n",
        encoding="utf-8",
    )
    world.recipe["reward"]["penalties"] = None


@scores_all_alike.fault
def scores_are_in_millions(world: World) -> None:
    (world.folder / "rewards.py").write_text(
        "def share_of_letters(completions):\n    return [1e6 * sum(map(ord, text)) for text in completions]\n",
        encoding="utf-8",
    )
    world.recipe["reward"]["penalties"] = None


@scores_all_alike.fault
def every_score_is_clipped(world: World) -> None:
    world.recipe["reward"]["penalties"] = None
    world.recipe["training"]["score_clip"] = 1e-4
