"""Watching a trainer: every update and every evaluation goes past the guards.

The truth is read where it is made, not in the log: the loss from `training_step`, the gradient's norm from the clipping
that training does anyway. Nothing is computed a second time, and a GPU is never waited for: its numbers are read
when the next step has been launched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import Check
from ftrun.checks.engine import run_checks
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtModel
from ftrun.checks.training import AtEvaluation, AtUpdate, Evaluation, History, Training, Update

if TYPE_CHECKING:
    import torch
    from transformers import Trainer, TrainerCallback


class Alarm(Exception):
    """Raised out of training by a guard whose action is to stop or to go back."""

    def __init__(self, finding: Finding, action: str, step: int, batches: Sequence[Any]) -> None:
        super().__init__(finding.message)
        self.finding = finding
        self.action = action
        self.step = step
        """The update that was found wrong."""

        self.batches = batches
        """The micro-batches of that update."""


Tell = Callable[[Finding, str, int], None]
"""Says and records what a guard found, what was done, and at which step."""


@dataclass
class Watch:
    """What the guards of a run know. It outlives a trainer: after a rollback it is attached to the next."""

    training: Training
    guards: Sequence[Check]
    tell: Tell
    skipped: set[int] = field(default_factory=set)
    """Steps, from 1, that are made without their rows: they are to blame for an alarm."""

    updates: History = field(default_factory=History)
    evaluations: list[Evaluation] = field(default_factory=list)
    warned: set[str] = field(default_factory=set)

    def attach(self, at: AtModel) -> None:
        """Watch a trainer that has not begun to train."""
        self.updates = History()
        self.evaluations.clear()
        at.trainer.add_callback(_make_callback(self, _Reader(at.trainer, self.skipped)))

    def note_update(self, update: Update, batches: Sequence[Any]) -> None:
        """Ask the guards of updates. Raises Alarm."""
        self.updates.append(update)
        at = AtUpdate(self.training.recipe, self.training.file, self.updates)
        self.ask(at, update.step, batches)

    def note_evaluation(self, step: int, metrics: dict[str, float]) -> None:
        """Ask the guards of evaluations. Raises Alarm."""
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
                if action == "warn":
                    if result.check.id not in self.warned:
                        self.tell(finding, "went on", step)
                    self.warned.add(result.check.id)
                else:
                    raise Alarm(finding, action, step, batches)


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
        if self.trainer.state.global_step + 1 in self.skipped:
            return torch.zeros((), device=self.trainer.args.device)
        loss: torch.Tensor = self._step(model, inputs, num_items_in_batch)
        self.loss = loss if self.loss is None else self.loss + loss
        return loss

    def clip(self, parameters: Any, max_norm: float, norm_type: int = 2) -> Any:
        """`Accelerator.clip_grad_norm_`, whose result is kept."""
        self.norm = self._clip(parameters, max_norm, norm_type)
        return self.norm

    def take(self) -> tuple[Callable[[], list[float]] | None, list[Any]]:
        """Reads loss and norm of the last update, None where it was skipped, and its micro-batches. Empty again
        afterwards."""
        import torch

        loss, norm, batches = self.loss, self.norm, self.batches
        self.loss, self.norm, self.batches = None, None, []
        if loss is None:
            return None, batches
        if self.trainer.args.world_size > 1:
            loss = self.trainer.accelerator.reduce(loss, "mean")  # all processes are to decide alike
        norm = torch.as_tensor(0.0 if norm is None else norm, device=loss.device)
        return _fetch(torch.stack([loss.float(), norm.float()])), batches


def _fetch(numbers: torch.Tensor) -> Callable[[], list[float]]:
    """Begins to bring numbers into main memory; what it returns waits for them, and for nothing that a GPU was given
    to do since."""
    import torch

    if numbers.device.type != "cuda":
        return numbers.tolist
    there = torch.empty(numbers.shape, pin_memory=True)
    there.copy_(numbers, non_blocking=True)
    arrived: Any = torch.cuda.Event()  # type: ignore[no-untyped-call, unused-ignore]  # torch is untyped here
    arrived.record()

    def wait() -> list[float]:
        arrived.synchronize()
        values: list[float] = there.tolist()
        return values

    return wait


def _make_callback(watch: Watch, reader: _Reader) -> TrainerCallback:
    from transformers import TrainerCallback

    waiting: list[tuple[int, Callable[[], list[float]], list[Any]]] = []

    def read(keep: int) -> None:
        while len(waiting) > keep:
            step, fetch, batches = waiting.pop(0)
            watch.note_update(Update(step, *fetch()), batches)

    class AskGuards(TrainerCallback):  # type: ignore[misc, unused-ignore]  # transformers is untyped here
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            fetch, batches = reader.take()
            if fetch is not None:
                waiting.append((state.global_step, fetch, batches))
            # A GPU has finished the step before the last by now; the numbers of the last would be waited for.
            read(keep=0 if args.device.type == "cpu" or control.should_save else 1)

        def on_evaluate(
            self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any
        ) -> None:
            read(keep=0)
            watch.note_evaluation(state.global_step, dict(metrics or {}))

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            read(keep=0)

    return AskGuards()
