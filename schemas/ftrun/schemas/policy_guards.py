"""`guards:` of a policy that is held to its reference, and of the rewards that it is trained with (DPO, PPO)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ftrun.schemas.section import Section


class FarFromReference(Section):
    """A policy that has gone far from its reference, by KL(policy ‖ reference) of an answer: in DPO at each
    evaluation, in PPO in three rollouts in a row."""

    action: Literal["warn", "stop", "raise_kl", "rollback", False] = "raise_kl"
    """What happens at the limit. `raise_kl` raises PPO's coefficient in flight, and goes back with a higher one where
    that has not helped within ten rollouts; in DPO it is `rollback`, which goes back with a higher beta."""

    warn_at: float = Field(default=25.0, gt=0.0)
    """Nats of an answer at which it is told once, whatever the action; over 100 tokens in proportion."""

    limit: float = Field(default=100.0, gt=0.0)
    """Nats of an answer that are too many; over 100 tokens in proportion."""

    target_factor: float = Field(default=4.0, gt=1.0)
    """With `training.kl_target`: how many times the target is too many; half of that is told."""


class ScoresOutOfScale(Section):
    """Scores of another order than all before (PPO)."""

    action: Literal["warn", "stop", "rollback", False] = "rollback"
    """What happens then."""

    factor: float = Field(default=100.0, gt=1.0)
    """How many times the largest score and deviation so far the deviation of a rollout is."""


class RewardsAllAlike(Section):
    """Rewards that do not tell answers apart (PPO)."""

    action: Literal["warn", "stop", "raise_kl", "rollback", False] = "warn"
    """What happens then."""

    deviation: float = Field(default=0.1, gt=0.0, lt=1.0)
    """The part of their first deviation under which scores are all alike, where the score is not above its start."""


class AnswersRepeat(Section):
    """Answers that repeat themselves while the score is above that of the start (PPO)."""

    action: Literal["warn", "stop", "raise_kl", "rollback", False] = "warn"
    """What happens then."""

    unique_words: float = Field(default=0.5, gt=0.0, le=1.0)
    """The share of different words, in stretches of 50, under which an answer repeats itself."""


class LengthRunsAway(Section):
    """Answers that grow until they are cut off (PPO)."""

    action: Literal["warn", "stop", "raise_kl", "rollback", False] = "warn"
    """What happens then."""

    ended: float = Field(default=0.5, gt=0.0, lt=1.0)
    """The part of the share that came to an end at the start under which too few do."""


class EntropyCollapses(Section):
    """A policy that has stopped trying anything while something is left to gain (PPO)."""

    action: Literal["warn", "stop", "raise_kl", "rollback", False] = "warn"
    """What happens then."""

    entropy: float = Field(default=0.1, gt=0.0, lt=1.0)
    """The part of the entropy at the start that is too little."""


class RewardModelsDisagree(Section):
    """Reward models of an ensemble that disagree more and more (PPO)."""

    action: Literal["warn", "stop", "raise_kl", "rollback", False] = "warn"
    """What happens then."""

    factor: float = Field(default=2.0, gt=1.0)
    """How many times as much as at the start is too much."""


class RewardWithoutGain(Section):
    """A score that rises where it trains and falls on held-out prompts, or a distance that buys no score (PPO)."""

    action: Literal["warn", "stop", "raise_kl", "rollback", False] = "warn"
    """What happens then."""

    evaluations: int = Field(default=2, ge=1)
    """How many evaluations in a row have to fall."""

    kl: float = Field(default=10.0, gt=0.0)
    """Nats of an answer, beyond lost entropy, that a score which was there before may cost; for answers of over 100
    tokens in proportion."""
