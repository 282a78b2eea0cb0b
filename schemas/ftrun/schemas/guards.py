"""`guards:`, what watches a run while it trains: each guard under the name of its module in `ftrun.checks.guards`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ftrun.schemas.policy_guards import (
    AnswersRepeat,
    EntropyCollapses,
    FarFromReference,
    LengthRunsAway,
    RewardModelsDisagree,
    RewardsAllAlike,
    RewardWithoutGain,
    ScoresOutOfScale,
)
from ftrun.schemas.section import Section


class LossNotFinite(Section):
    """Loss or gradients that are no numbers."""

    action: Literal["warn", "stop", "rollback", False] = "rollback"
    """What happens then."""


class LossRunsAway(Section):
    """A loss that rises far above what it was, and does not come back."""

    action: Literal["warn", "stop", "rollback", False] = "rollback"
    """What happens then."""

    factor: float = Field(default=2.0, gt=1.0)
    """How many times its best the loss has to be, in the median over `window` steps."""

    rise: float = Field(default=1.5, gt=0.0)
    """And how far above its best, in nats."""

    given_back: float = Field(default=0.5, gt=0.0)
    """Or from one step to the next: what share of the fall since the start is lost again, where the last five losses
    are above all of up to a hundred before them. Not judged where rows are not drawn at random."""

    window: int = Field(default=10, ge=3)
    """Steps over which medians are taken."""


class Overfitting(Section):
    """A loss that rises on held-out rows while it falls on those that train."""

    action: Literal["warn", "end", False] = "warn"
    """What happens then. `end` ends training there, and the run finishes as usual: with
    `training.load_best_model_at_end` the best weights are the ones that are saved."""

    gap: float = Field(default=0.5, gt=0.0)
    """How far the loss on held-out rows is above the training loss, in nats."""


class MemoryRanOut(Section):
    """A step for which the device has not enough memory."""

    action: Literal["stop", "rollback", False] = "rollback"
    """`rollback` halves the micro-batch and doubles the accumulation, so that every step keeps its rows; and where
    the micro-batch is one row turns gradient checkpointing on."""


class EvaluationNotFinite(Section):
    """A loss on held-out rows that is no number."""

    action: Literal["warn", "stop", "rollback", False] = "warn"
    """What happens then."""


class WeightsNotFinite(Section):
    """Weights that are no numbers, although loss and gradients were."""

    action: Literal["warn", "stop", "rollback", False] = "rollback"
    """What happens then."""


class WeightsJump(Section):
    """Weights that change by more than the optimizer can change them."""

    action: Literal["warn", "stop", "rollback", False] = "rollback"
    """What happens then."""


class FrozenWeightsMove(Section):
    """Weights that change although they are not trained: the base under adapters, the reference, a reward model."""

    action: Literal["warn", "stop", "rollback", False] = "stop"
    """What happens then."""


class SettingsChange(Section):
    """Numbers that the run is made with, and that change while it trains: dropout, scales of adapters, DPO's beta."""

    action: Literal["warn", "stop", "rollback", False] = "rollback"
    """What happens then."""


class GradientsVanishInLayers(Section):
    """Trained layers that are given no gradient, next to none, or far too much; or that do not move."""

    action: Literal["warn", "stop", False] = "warn"
    """What happens then."""

    ratio: float = Field(default=1e4, gt=1.0)
    """How many times smaller or larger a layer's gradient is than the median of the others of its stack."""

    looks: int = Field(default=3, ge=2, le=20)
    """In how many looks in a row; there are about a hundred in a run, and at least ten steps between two."""


class LossDoesNotFall(Section):
    """A loss that stays where it began."""

    action: Literal["warn", "stop", False] = "warn"
    """What happens then."""

    steps: int = Field(default=100, ge=20)
    """Updates behind warmup before it is judged; and not before a quarter of the run."""

    fall: float = Field(default=0.01, gt=0.0, lt=1.0)
    """The smallest fall that counts, as a share of the loss at the start."""


class GradientNormSpikes(Section):
    """Gradients that are far larger than usual, where the run suffers from it."""

    action: Literal["warn", "stop", "rollback", False] = "rollback"
    """What happens at one spike that does damage. Spikes that come again and again are told, whatever the action."""

    factor: float = Field(default=10.0, gt=1.0)
    """How many times the usual norm a spike is at least."""

    count: int = Field(default=10, ge=2, le=100)
    """Spikes in 100 steps that are a finding where the loss does not fall meanwhile."""


class KnowledgeForgotten(Section):
    """What the model knew before training and no longer does. Not for reward models, which have no words."""

    action: Literal["warn", "stop", False] = "warn"
    """What happens then."""

    probe: Annotated[str, Field(min_length=1)] | None = None
    """A jsonl file of prompts and completions that the model is to go on knowing, relative to this file. Absent:
    questions of general knowledge that come with ftrun."""

    every: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Steps between two looks, besides those before and after training. `auto`: as many as cost at most 2 % of the
    run, counted in tokens; where that is none, the model is not asked."""

    loss: float = Field(default=1.0, gt=0.0)
    """How far the mean log-probability of known answers may fall below its start, in nats per token."""


class BatchesUnlikeData(Section):
    """A data loader that feeds other rows, or trains other tokens of them, than the data stage counted."""

    action: Literal["warn", "stop", False] = "stop"
    """What happens then."""

    tolerance: float = Field(default=0.02, ge=0.0, lt=1.0)
    """By what share the tokens that are fed, those that are trained, and the answers that end may be fewer or more
    than any such rows have together. A row that trains nothing, where all rows do, is told at once."""


class SourcesDrift(Section):
    """Sources that are fed in other shares than the recipe asks for, over a stretch of the run."""

    action: Literal["warn", "stop", False] = "warn"
    """What happens then."""

    chance: float = Field(default=1e-6, gt=0.0, lt=1.0)
    """Of a false alarm in the whole run, where rows are drawn at random."""


class SourceLeftBehind(Section):
    """A source whose loss rises while that of the others does not, told apart over 100 updates."""

    action: Literal["warn", "stop", "rollback", False] = "warn"
    """What happens then."""

    rise: float = Field(default=0.3, gt=0.0)
    """How far its loss is above its best, in nats."""


class RunStalls(Section):
    """No sign of life for a long time."""

    action: Literal["warn", "stop", False] = "warn"
    """What happens then. Either way, what every thread is doing is written to `stalled.txt` in the run folder; `stop`
    then ends the run as failed."""

    minutes: float = Field(default=10.0, gt=0.0)
    """How long a step may take, where none has taken longer than a fifth of it. The first step, an evaluation and a
    checkpoint may take six times as long."""


class Guards(Section):
    """What watches the run while it trains: each guard by its name, with its thresholds and its action. `warn` says it
    and goes on; `stop` ends the run as failed; `rollback` goes back to the last good checkpoint, or to the start where
    there is none, applies a remedy and goes on; `off`, which is YAML for false, does nothing."""

    loss_not_finite: LossNotFinite = Field(default_factory=LossNotFinite)
    """GUARD001."""

    loss_runs_away: LossRunsAway = Field(default_factory=LossRunsAway)
    """GUARD002."""

    overfitting: Overfitting = Field(default_factory=Overfitting)
    """GUARD003."""

    memory_ran_out: MemoryRanOut = Field(default_factory=MemoryRanOut)
    """GUARD009."""

    gradients_vanish_in_layers: GradientsVanishInLayers = Field(default_factory=GradientsVanishInLayers)
    """GUARD008."""

    evaluation_not_finite: EvaluationNotFinite = Field(default_factory=EvaluationNotFinite)
    """GUARD015."""

    frozen_weights_move: FrozenWeightsMove = Field(default_factory=FrozenWeightsMove)
    """GUARD016."""

    loss_does_not_fall: LossDoesNotFall = Field(default_factory=LossDoesNotFall)
    """GUARD017."""

    gradient_norm_spikes: GradientNormSpikes = Field(default_factory=GradientNormSpikes)
    """GUARD018."""

    weights_not_finite: WeightsNotFinite = Field(default_factory=WeightsNotFinite)
    """GUARD020."""

    weights_jump: WeightsJump = Field(default_factory=WeightsJump)
    """GUARD023."""

    settings_change: SettingsChange = Field(default_factory=SettingsChange)
    """GUARD024."""

    knowledge_forgotten: KnowledgeForgotten = Field(default_factory=KnowledgeForgotten)
    """GUARD004."""

    batches_unlike_data: BatchesUnlikeData = Field(default_factory=BatchesUnlikeData)
    """GUARD006."""

    sources_drift: SourcesDrift = Field(default_factory=SourcesDrift)
    """GUARD021."""

    source_left_behind: SourceLeftBehind = Field(default_factory=SourceLeftBehind)
    """GUARD022."""

    run_stalls: RunStalls = Field(default_factory=RunStalls)
    """GUARD010."""

    far_from_reference: FarFromReference = Field(default_factory=FarFromReference)
    """GUARD005."""

    rewards_all_alike: RewardsAllAlike = Field(default_factory=RewardsAllAlike)
    """GUARD007."""

    scores_out_of_scale: ScoresOutOfScale = Field(default_factory=ScoresOutOfScale)
    """GUARD025."""

    answers_repeat: AnswersRepeat = Field(default_factory=AnswersRepeat)
    """GUARD011."""

    length_runs_away: LengthRunsAway = Field(default_factory=LengthRunsAway)
    """GUARD012."""

    entropy_collapses: EntropyCollapses = Field(default_factory=EntropyCollapses)
    """GUARD013."""

    reward_models_disagree: RewardModelsDisagree = Field(default_factory=RewardModelsDisagree)
    """GUARD014."""

    reward_without_gain: RewardWithoutGain = Field(default_factory=RewardWithoutGain)
    """GUARD019."""

    rollbacks: int = Field(default=5, ge=0)
    """How often a run may go back before it stops."""

    learning_rate_factor: float = Field(default=0.1, gt=0.0, le=1.0)
    """What the learning rate is multiplied by where leaving a step out did not help."""

    max_grad_norm: float = Field(default=0.5, gt=0.0)
    """What gradients are clipped to after such a rollback, where they were not clipped to less."""

    kl_coef_factor: float = Field(default=4.0, gt=1.0)
    """What PPO's `kl_coef`, or DPO's `beta`, is multiplied by where the policy goes astray; a coefficient of 0 becomes
    0.05."""
