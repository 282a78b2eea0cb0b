"""What guards of PPO and DPO are given: what the policy answers, what that is paid, how far it is from its reference.

Stages are as in `ftrun.checks.training`; everything here comes from numbers that training makes anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from ftrun.checks.engine import NotApplicable
from ftrun.checks.training import Training

STRETCH = 50
"""Words over which different ones are counted: over a whole text, their share falls with its length alone."""

FIRST, RECENT = 3, 5
"""Rollouts that tell how a run began, and those that tell how it is going."""

KEPT = 100
"""Rollouts that are remembered beside the first."""

SHOWN = 10
"""Answers in the table of an event."""


@dataclass(frozen=True)
class Scored:
    """An answer of a rollout."""

    prompt: str
    answer: str
    score: float
    length: int
    """Tokens."""

    ended: bool
    """By a stop token, and not by the limit."""

    unique_words: float


@dataclass(frozen=True)
class Rollout:
    """Means over the answers of a rollout, in all processes."""

    step: int
    """The first update that was made with it."""

    answers: int
    score: float
    """As it came: neither scaled nor clipped."""

    deviation: float
    """Of the scores."""

    high: float
    """The score that a tenth of the answers reach."""

    length: float
    ended: float
    unique_words: float
    entropy: float
    """Of the policy at a token, in nats."""

    kl: float
    """Log ratio to the reference, summed over an answer, in nats."""

    kl_error: float
    """Its standard error."""

    disagreement: float | None = None
    """Standard deviation between the reward models."""


@dataclass
class Rollouts:
    """Those since the start of the run, also where it was resumed, or went back to a checkpoint."""

    first: list[Rollout] = field(default_factory=list)
    last: list[Rollout] = field(default_factory=list)
    count: int = 0

    def append(self, rollout: Rollout) -> None:
        """Add the one that was made last."""
        if len(self.first) < FIRST:
            self.first.append(rollout)
        self.last = [*self.last, rollout][-KEPT:]
        self.count += 1

    def recent(self, count: int = RECENT) -> list[Rollout]:
        """The last ones. Raises NotApplicable as long as they are among the first."""
        if self.count < FIRST + count:
            raise NotApplicable(f"fewer than {FIRST + count} rollouts")
        return self.last[-count:]


@dataclass(frozen=True)
class HeldOut:
    """The held-out prompts, answered at an evaluation."""

    step: int
    score: float
    error: float
    """Standard error of the score."""

    training_score: float
    """The mean score of the rollouts since the evaluation before."""


@dataclass(frozen=True)
class Distance:
    """KL(policy ‖ reference) of an answer, in nats, mean of some answers."""

    step: int
    kl: float
    narrowed: float
    """How much of it is entropy that the policy has lost. KL is that, and what the policy's answers are less likely
    under the reference than the reference's own: KL(p ‖ q) = (H(q) − H(p)) + Σ (q − p) log q."""

    length: float
    """Tokens of an answer."""

    error: float = 0.0
    """Standard error of the KL; 0 where the answers are the same at every measurement."""


@dataclass(frozen=True, eq=False, repr=False)
class AtPolicy(Training):
    """Where it may be found that the policy goes astray, and is to be held to its reference more strongly."""


@dataclass(frozen=True, eq=False, repr=False)
class AtDistance(AtPolicy):
    """Behind a rollout of PPO, and behind an evaluation of DPO."""

    distances: Sequence[Distance]
    target: float | None
    """The KL that PPO's coefficient is adapted to."""


@dataclass(frozen=True, eq=False, repr=False)
class AtRollout(AtPolicy):
    """Behind the first update of a rollout, and behind an evaluation of PPO."""

    rollouts: Rollouts
    answers: Sequence[Scored]
    """Of the last one, in all processes."""

    evaluations: Sequence[HeldOut]
    progress: float
    """The share of the run's steps that are made."""


@dataclass(frozen=True, eq=False, repr=False)
class AtScores(Training):
    """Behind the first update of a rollout: it is the reward that is judged, and not the policy."""

    rollouts: Rollouts
    answers: Sequence[Scored]
    """Of the last one, in all processes."""


def mean(name: str, rollouts: Iterable[Rollout]) -> float:
    """Of a figure over rollouts."""
    return fmean(getattr(one, name) for one in rollouts)


def gain(rollouts: Rollouts, now: Sequence[Rollout]) -> float:
    """By how much the score is above that of the start, in standard deviations of the start's answers."""
    risen = mean("score", now) - mean("score", rollouts.first)
    return risen / max(mean("deviation", rollouts.first), 1e-12)


def last_good(rollouts: Rollouts, good: Callable[[Rollout], bool]) -> int:
    """The first update of the last rollout of which that holds: from there on it went wrong."""
    return next((one.step for one in reversed(rollouts.last) if good(one)), 1)


def narrow(rollouts: Rollouts, now: Rollout) -> float:
    """How much of a rollout's KL is entropy that the policy has lost since the start, where it was the reference."""
    return now.length * (mean("entropy", rollouts.first) - now.entropy)


def share_unique(text: str) -> float:
    """The share of different words, mean over stretches of STRETCH words; 1 for a text without words."""
    words = text.split()
    stretches = [words[i : i + STRETCH] for i in range(0, max(1, len(words) - STRETCH + 1), STRETCH)]
    return fmean(len(set(stretch)) / len(stretch) for stretch in stretches) if words else 1.0


def show(answers: Sequence[Scored], worst: Callable[[Scored], Any]) -> tuple[Mapping[str, Any], ...]:
    """The answers for which `worst` is lowest, as a table."""
    return tuple(vars(one) for one in sorted(answers, key=worst)[:SHOWN])
