"""Watching a trainer: every update and every evaluation goes past the guards.

The truth is read where it is made, not in the log: the loss from `training_step`, the gradient's norm from the clipping
that training does anyway. Nothing is computed a second time, and a GPU is never waited for: its numbers are read
when the next step has been launched. Several processes sum their numbers, in one exchange an update, so that all are
given the same and decide alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import Check
from ftrun.checks.engine import run_checks
from ftrun.checks.finding import Finding
from ftrun.checks.rollouts import AtPolicy
from ftrun.checks.stages import AtModel
from ftrun.checks.training import AtEvaluation, AtUpdate, Evaluation, History, Training, Update
from ftrun.runner.guarding import (
    divergence,
    feeding,
    inspection,
    plateau,
    probing,
    rollouts,
    settings,
    stalls,
)
from ftrun.runner.guarding.alarm import Alarm
from ftrun.runner.guarding.events import Events
from ftrun.runner.guarding.sharding import is_sharded
from ftrun.runner.guarding.transfer import Counted, Judge, bring
from ftrun.runner.launching.sharding import make_whole
from ftrun.runner.ranks import gather

if TYPE_CHECKING:
    import torch
    from transformers import Trainer, TrainerCallback


@dataclass
class Watch:
    """What the guards of a run know. It outlives a trainer: after a rollback it is attached to the next."""

    training: Training
    guards: Sequence[Check]
    events: Events
    skipped: set[int] = field(default_factory=set)
    """Steps, from 1, that are made without their rows: they are to blame for an alarm."""

    updates: History = field(default_factory=History)
    evaluations: list[Evaluation] = field(default_factory=list)
    warned: set[tuple[str, str | None]] = field(default_factory=set)
    hold: Callable[[Finding, int], bool] | None = None
    """Raises the coefficient of a trainer that has one to raise in flight; false where that did not help."""

    batches: Sequence[Any] = ()
    """The micro-batches of the last update."""

    counted: Counted | None = None
    """Of the update under way, where it is counted what is fed."""

    ending: bool = False
    """Whether training is to end here, as it would behind its last step."""

    def attach(self, at: AtModel) -> None:
        """Watch a trainer that has not begun to train."""
        self.updates = History()
        self.evaluations.clear()
        at.trainer.add_callback(_make_callback(self, _Reader(at.trainer, self.skipped)))
        if at.recipe.method == "ppo":
            at.trainer.add_callback(rollouts.make_callback(self, at))
        if at.recipe.method == "dpo":
            at.trainer.add_callback(divergence.make_callback(self))
        asked = {one.name for one in self.guards if at.recipe.method in one.methods}
        if asked & inspection.GUARDS and not is_sharded(at.trainer):
            at.trainer.add_callback(inspection.make_callback(self, at))
        if asked & feeding.GUARDS:
            at.trainer.add_callback(feeding.make_callback(self, at))
        for name, module in (
            ("loss_does_not_fall", plateau),
            ("knowledge_forgotten", probing),
            ("settings_change", settings),
            ("run_stalls", stalls),
        ):
            if name in asked:
                at.trainer.add_callback(module.make_callback(self, at))

    def note_update(self, update: Update, batches: Sequence[Any]) -> None:
        """Ask the guards of updates. Raises Alarm."""
        self.updates.append(update)
        self.batches = batches
        at = AtUpdate(self.training.recipe, self.training.file, self.updates)
        self.ask(at, update.step, batches)

    def note_evaluation(self, step: int, metrics: dict[str, float]) -> None:
        """Ask the guards of evaluations. Raises Alarm."""
        metrics = gather(metrics, "an evaluation")[0]
        since = self.evaluations[-1].step if self.evaluations else 0
        losses = [update.loss for update in self.updates.last(step - since) if update.step > since]
        if losses:
            self.evaluations.append(Evaluation(step, metrics, fmean(losses)))
            self.ask(AtEvaluation(self.training.recipe, self.training.file, self.evaluations), step)

    def ask(self, at: Training, step: int, batches: Sequence[Any] = ()) -> None:
        """Ask the guards that wait for this stage, behind a step that `batches` were of. Raises Alarm."""
        for result in run_checks(self.guards, at, method=self.training.recipe.method, ignore={}):
            action = getattr(self.training.recipe.guards, result.check.name).action
            for finding in result.findings:
                if action == "warn" or finding.severity == "info":
                    if (finding.id, finding.severity) not in self.warned:
                        self.events.tell(finding, "went on", step)
                    self.warned.add((finding.id, finding.severity))
                elif action == "end":
                    self.events.tell(finding, "ended training", step)
                    self.ending = True
                elif action != "raise_kl" or self.hold is None or not self.hold(finding, step):
                    raise Alarm(finding, action, step, batches, astray=isinstance(at, AtPolicy))


class _Reader:
    """Loss and gradient norm of each update, as the trainer computes them."""

    def __init__(self, trainer: Trainer, skipped: set[int]) -> None:
        self.trainer = trainer
        self.skipped = skipped
        self.loss: torch.Tensor | None = None
        self.norm: Any = None
        self.batches: list[Any] = []
        self._step, self._clip = trainer.training_step, trainer.accelerator.clip_grad_norm_
        trainer.training_step = self.make_step
        trainer.accelerator.clip_grad_norm_ = self.clip

    def make_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """`Trainer.training_step`, but that a skipped step computes nothing: without gradients the optimizer moves no
        weight and no moment, and the schedule, the counters and the place in the data go on."""
        import torch

        self.batches.append(inputs)
        if self._is_skipped():
            _leave_out_next(self.trainer)
            return torch.zeros((), device=self.trainer.args.device)
        loss: torch.Tensor = self._step(model, inputs, num_items_in_batch)
        self.loss = loss if self.loss is None else self.loss + loss
        return loss

    def clip(self, parameters: Any, max_norm: float, norm_type: int = 2) -> Any:
        """`Accelerator.clip_grad_norm_`, whose result is kept."""
        if self._is_skipped():
            import torch

            return torch.zeros((), device=self.trainer.args.device)
        norm = self._clip(parameters, max_norm, norm_type)
        self.norm = make_whole(norm)
        return norm

    def _is_skipped(self) -> bool:
        return self.trainer.state.global_step + 1 in self.skipped

    def take(self, fed: Counted | None) -> Taken | None:
        """What the last update left; None where it was skipped and nothing is counted. Empty again afterwards."""
        import torch

        loss, norm, batches = self.loss, self.norm, self.batches
        self.loss, self.norm, self.batches = None, None, []
        if loss is None and fed is None:
            return None
        device, count = self.trainer.args.device, self.trainer.args.world_size
        norm = torch.as_tensor(0.0 if norm is None else norm, device=device)
        both = torch.zeros(2, device=device) if loss is None else torch.stack([loss.float(), norm.float()])
        numbers = both / count if fed is None else torch.cat([both / count, fed.counts.float()])
        if count > 1:
            numbers = self.trainer.accelerator.reduce(numbers, "sum")
        step = int(self.trainer.state.global_step)
        return Taken(step, bring(numbers), batches, loss is None, None if fed is None else fed.judge)


@dataclass(frozen=True)
class Taken:
    """The numbers of an update, which are on their way."""

    step: int
    fetch: Callable[[], list[float]]
    """Waits for the mean loss of all processes, the mean norm, and the counts of all of them."""

    batches: Sequence[Any]
    is_skipped: bool
    judge: Judge | None


def _leave_out_next(trainer: Trainer) -> None:
    """With float16: the scale of gradients is not asked for a step that has none, which it refuses."""
    if trainer.accelerator.scaler is not None:
        optimizer = trainer.optimizer
        optimizer.step = lambda *_: vars(optimizer).pop("step", None)


def _make_callback(watch: Watch, reader: _Reader) -> TrainerCallback:
    from transformers import TrainerCallback

    waiting: list[Taken] = []

    def read(keep: int) -> None:
        while len(waiting) > keep:
            taken = waiting.pop(0)
            loss, norm, *counts = taken.fetch()
            # The scaler of float16 leaves out a step for a gradient that is no number.
            left_out = reader.trainer.accelerator.scaler is not None and not math.isfinite(norm)
            if not taken.is_skipped:
                watch.note_update(Update(taken.step, loss, norm, left_out), taken.batches)
            if taken.judge is not None:
                taken.judge(taken.step, counts, taken.batches)

    class AskGuards(TrainerCallback):  # type: ignore[misc, unused-ignore]  # transformers is untyped here
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            taken, watch.counted = reader.take(watch.counted), None
            if taken is not None:
                waiting.append(taken)
            # A GPU has finished the step before the last by now; the numbers of the last would be waited for.
            read(keep=0 if args.device.type == "cpu" or control.should_save else 1)

        def on_evaluate(
            self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any
        ) -> None:
            read(keep=0)
            watch.note_evaluation(state.global_step, dict(metrics or {}))
            control.should_training_stop |= watch.ending

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            read(keep=0)

    return AskGuards()
