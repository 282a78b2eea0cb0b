"""Watching PPO: each rollout, and each evaluation, goes past the guards of what a policy does.

What is read is there already: the answers, scores and figures that the trainer keeps of its last rollout. Different
words are counted besides, which takes some microseconds an answer. What is remembered goes into checkpoints, so that a
run that was resumed, or went back, knows how it began.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ftrun.checks.rollouts import (
    AtDistance,
    AtRollout,
    AtScores,
    Distance,
    HeldOut,
    Rollout,
    Rollouts,
    Scored,
    narrow,
    share_unique,
)
from ftrun.runner.guarding.coefficient import raise_coefficient, read_coefficient, write_coefficient

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from ftrun.checks.finding import Finding
    from ftrun.checks.stages import AtModel
    from ftrun.runner.guarding.watch import Watch

GRACE = 10
"""Rollouts that a raised coefficient is given: five to work, and five that are then judged."""


@dataclass
class Memory:
    """What is known of the rollouts of a run."""

    rollouts: Rollouts = field(default_factory=Rollouts)
    evaluations: list[HeldOut] = field(default_factory=list)
    raised: int | None = None
    """The rollout, by its number, behind which the coefficient was raised in flight."""

    answers: list[Scored] = field(default_factory=list)

    def save(self) -> dict[str, Any]:
        """As plain data, without the answers."""
        return asdict(self) | {"answers": []}

    def load(self, known: Mapping[str, Any]) -> None:
        """Take over what `save` gave."""
        parts: Any = known["rollouts"]
        first, last = ([Rollout(**one) for one in parts[name]] for name in ("first", "last"))
        self.rollouts = Rollouts(first, last, parts["count"])
        self.evaluations = [HeldOut(**one) for one in known["evaluations"]]
        self.raised = known["raised"]

    def distances(self) -> list[Distance]:
        """Of the rollouts, each measured before the first update with it."""
        return [
            Distance(one.step - 1, one.kl, narrow(self.rollouts, one), one.length, one.kl_error)
            for one in self.rollouts.last
        ]


def make_callback(watch: Watch, at: AtModel) -> TrainerCallback:
    """Asks the guards of a PPO trainer that has not begun to train."""
    from transformers import TrainerCallback
    from transformers.trainer_callback import ExportableState

    memory, trainer, training = Memory(), at.trainer, watch.training
    seen = trainer.seen.get("figures")  # the dry step's

    def ask(state: Any) -> None:
        common = training.recipe, training.file
        target = training.recipe.training["kl_target"]
        watch.ask(AtDistance(*common, memory.distances(), target), state.global_step)
        progress = state.global_step / state.max_steps
        judged = AtRollout(*common, memory.rollouts, memory.answers, memory.evaluations, progress)
        watch.ask(judged, state.global_step)

    def hold(finding: Finding, step: int) -> bool:
        count = memory.rollouts.count
        if memory.raised is not None:
            return count < memory.raised + GRACE
        before = read_coefficient(trainer)
        after = raise_coefficient(before, training.recipe.guards.kl_coef_factor)
        write_coefficient(trainer, after)
        memory.raised = count
        watch.events.tell(finding, f"raised the KL coefficient from {before:.3g} to {after:.3g}", step)
        return True

    class AskOfRollouts(TrainerCallback, ExportableState):  # type: ignore[misc, unused-ignore]  # transformers is untyped here
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            # A checkpoint of before there was this callback lacks its state, and the next one could not be written.
            kept = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
            memory.load(kept["attributes"])

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            nonlocal seen
            if trainer.seen.get("figures") is not seen:
                seen = trainer.seen["figures"]
                memory.answers = list_answers(trainer.seen)
                memory.rollouts.append(describe_rollout(trainer, memory.answers))
                scored = AtScores(training.recipe, training.file, memory.rollouts, memory.answers)
                watch.ask(scored, state.global_step)
                ask(state)

        def on_evaluate(
            self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any
        ) -> None:
            since = memory.evaluations[-1].step if memory.evaluations else 0
            scores = [one.score for one in memory.rollouts.last if one.step > since]
            if scores:
                error = metrics["eval_score_std"] / len(trainer.eval_dataset) ** 0.5
                held = HeldOut(state.global_step, metrics["eval_score"], error, fmean(scores))
                memory.evaluations.append(held)
                ask(state)

        def state(self) -> dict[str, Any]:
            """What goes into a checkpoint."""
            return {"args": {}, "attributes": memory.save()}

    watch.hold = hold
    return AskOfRollouts()


def list_answers(seen: Mapping[str, Any]) -> list[Scored]:
    """The answers of the last rollout, as guards are given them."""
    found = []
    for answer, score in zip(seen["answers"], seen["scores"].total.tolist(), strict=True):
        prompt = answer.example["prompt"]
        asked = prompt if isinstance(prompt, str) else str(prompt[-1]["content"])
        unique = share_unique(answer.text)
        found.append(Scored(asked, answer.text, score, answer.length, answer.ended, unique))
    return found


def describe_rollout(trainer: Any, answers: list[Scored]) -> Rollout:
    """The last rollout, whose figures and answers are those of all processes."""
    figures = trainer.seen["figures"]
    scores = sorted(one.score for one in answers)
    return Rollout(
        step=trainer.state.global_step,
        answers=len(answers),
        score=figures["score/mean"],
        deviation=figures["score/std"],
        high=scores[(9 * len(scores)) // 10],
        length=figures["response/length"],
        ended=figures["response/ended"],
        unique_words=fmean(one.unique_words for one in answers),
        entropy=figures["policy/entropy"],
        kl=figures["objective/kl"],
        kl_error=figures["objective/kl_stderr"],
        disagreement=figures.get("score/disagreement"),
    )
