"""The same answers are scored otherwise when the reward is asked again.

Symptom: the score of the policy wanders; a run cannot be repeated; much of what is learnt is noise.
Cause: a reward function that draws random numbers or reads a clock, a judge that samples its verdict, a reward model
with dropout on, scores that are returned in another order than the answers.
Fix: let the reward depend on prompt and answer alone: no random numbers, a judge at temperature 0, no dropout.
Prevention: score one answer twice before you train on the reward.
Source: both scorings are of one rollout, the second in reverse order. Differences of less than a thousandth of the
scores' spread are rounding.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtStep

if TYPE_CHECKING:
    from ftrun.checks.testing import World

ROUNDING = 1e-3
SEED = 1_000_003


@check(
    "PPO016", title="the reward gives the same answers the same scores", severity="warning", methods=("ppo",)
)
def scores_change_when_asked_again(at: AtStep) -> Iterator[Finding]:
    """Score the rollout of the dry step once more, in another order."""
    trainer: Any = at.trainer
    if "scores" not in trainer.seen:
        raise NotApplicable("the dry step ended before its answers were scored")
    first, answers = trainer.seen["scores"], trainer.seen["answers"]
    with other_random_numbers():
        again = trainer.reward.score(list(reversed(answers)))
    for name, part in first.parts.items():
        other = again.parts[name].flip(0)
        if not (part.isfinite() & other.isfinite()).all():
            continue
        apart = (part - other).abs()
        spread = max(float(part.std(correction=0)), float(part.abs().max()) * ROUNDING)
        if float(apart.max()) > ROUNDING * spread:
            number = int(apart.argmax())
            yield Finding(
                f"Of {len(answers)} answers that {name} scored twice, {int((apart > ROUNDING * spread).sum())} got "
                f"another score: one {float(part[number]):.4g}, then {float(other[number]):.4g}.",
                "Let the reward depend on prompt and answer alone.",
                at.where("reward"),
                evidence=(repr(answers[number].text[:80]),),
            )


@contextmanager
def other_random_numbers() -> Iterator[None]:
    """Draw others than the dry step drew, and leave the generators as they are: training does not depend on this."""
    import numpy as np
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(SEED)
            random.seed(SEED)
            np.random.seed(SEED)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@scores_change_when_asked_again.fault
def the_function_draws_random_numbers(world: World) -> None:
    (world.folder / "rewards.py").write_text(
        "import random\n\n\ndef share_of_letters(completions):\n    return [random.random() for _ in completions]\n",
        encoding="utf-8",
    )


@scores_change_when_asked_again.fault
def scores_stand_one_row_off(world: World) -> None:
    (world.folder / "rewards.py").write_text(
        "def share_of_letters(completions):\n"
        "    scores = [float(sum(map(str.isalpha, text))) for text in completions]\n"
        "    return scores[1:] + scores[:1]\n",
        encoding="utf-8",
    )
