"""Training that recovers: back to a good checkpoint, with a remedy, and on.

A rollback is what `--resume` is in a new process, made in this one: the trainer is built anew from the same rows, and
goes on from a checkpoint, or from the start. So it is exact where resuming is: weights, optimizer, schedule, random
states and the place in the data are those of the checkpoint, bit for bit. Several processes, whose guards are given the
same numbers, go back together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftrun.checks.catalogue import load_guards
from ftrun.checks.engine import run_checks
from ftrun.checks.stages import AtData, AtModel, narrow
from ftrun.checks.training import AtFailure, Training
from ftrun.runner.checkpoints import list_checkpoints
from ftrun.runner.guarding.alarm import Alarm
from ftrun.runner.guarding.blame import name_culprits
from ftrun.runner.guarding.coefficient import raise_coefficient, read_coefficient
from ftrun.runner.guarding.events import Events
from ftrun.runner.guarding.remedy import Remedy, apply, load_remedy, shrink
from ftrun.runner.guarding.sharding import is_sharded, list_off
from ftrun.runner.guarding.watch import Watch
from ftrun.runner.ranks import count_ranks, is_main, read_rank, share
from ftrun.schemas.errors import RunError

if TYPE_CHECKING:
    from transformers import Trainer, TrainerCallback


@dataclass
class Recovery:
    """A run that is trained under guards."""

    at: AtModel
    folder: Path
    events: Events
    prepare: Callable[[AtModel], None]
    """Adds to a new trainer what looks on besides the guards."""

    rollbacks: int = 0
    remedy: Remedy = field(default_factory=Remedy)
    judged: Alarm | None = None
    """The alarm whose rows are still to be looked at with good weights."""

    tried: list[int] = field(default_factory=list)
    """Steps of the checkpoints from which a slower course was begun."""

    last: int | None = None
    """The step of the last alarm."""

    since: int = 0
    """The step at which what it is about began."""

    attempt: int = 0
    """How often the run went back without getting past it."""

    applied: int = 0
    """How often the recipe's micro-batches have been made smaller here."""

    suspected: int | None = None
    """The step that was left out although no row of it is known to be to blame."""

    @property
    def is_slowed(self) -> bool:
        """Whether it is time for a lower rate. PPO's steps are parts of a rollout, of which none can be left out."""
        return self.attempt > (0 if self.at.recipe.method == "ppo" else 1)

    def train(self, checkpoint: Path | None) -> AtModel:
        """Train from a checkpoint, or from the start, to the end; returns what was trained in the end.

        Raises RunError where a guard stops the run, and what training raises where no guard knows a remedy.
        """
        if checkpoint is not None:
            self.remedy = share(partial(load_remedy, self.folder))
            if self.remedy.shrunk:
                self._rebuild()
                rows = self.at.recipe.training["per_device_train_batch_size"]
                told = f"memory ran out before: micro-batches have {rows} rows, and updates the same as ever"
                self.events.console.print(told, style="yellow")
        actions = self.at.recipe.guards
        guards = [one for one in load_guards() if getattr(actions, one.name).action]
        if is_sharded(self.at.trainer) and (off := list_off(guards)):
            told = f"off, since each process has a part of the model: {', '.join(off)}"
            self.events.console.print(told, style="yellow")
        watch = Watch(Training(self.at.recipe, self.at.file), guards, self.events, self.remedy.skipped)
        while True:
            self.prepare(self.at)
            if guards:
                watch.attach(self.at)
            self.at.trainer.add_callback(_make_callback(self))
            try:
                self.at.trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
            except Alarm as alarm:
                checkpoint = self._go_back(alarm)
            except (RuntimeError, MemoryError) as error:
                checkpoint = self._make_room(error, watch)
            else:
                return self.at

    def _go_back(self, alarm: Alarm) -> Path | None:
        """Build the trainer anew and find the checkpoint that it goes on from. Raises RunError."""
        settings = self.at.recipe.guards
        if alarm.action == "stop" or self.rollbacks == settings.rollbacks:
            tries = f" after {self.rollbacks} rollbacks" if self.rollbacks else ""
            self.events.tell(alarm.finding, f"stopped the run{tries}", alarm.step)
            raise RunError(
                f"{alarm.finding.id} stopped the run at step {alarm.step}{tries}: {alarm.finding.message}"
            )
        self.rollbacks += 1
        known = share(partial(list_checkpoints, self.folder))
        since = alarm.step if alarm.finding.since is None else alarm.finding.since
        # A run that wrote a checkpoint behind the last alarm, before this trouble began, had got past that one.
        if self.last is None or any(self.last < step < since for step in known):
            self.attempt, self.since = 0, since
        else:
            self.attempt, self.since = self.attempt + 1, min(since, self.since)
        self.last = alarm.step
        good = [step for step in known if step < self.since and step not in self.tried]
        step = max(good, default=0)
        if self.is_slowed:
            self.tried.append(step)
        self.judged = alarm
        if alarm.astray:
            before = read_coefficient(self.at.trainer)
            self.remedy.coefficient = raise_coefficient(before, settings.kl_coef_factor)
        self._rebuild()
        return known.get(step)

    def _make_room(self, error: Exception, watch: Watch) -> Path | None:
        """Smaller micro-batches, and the newest checkpoint. Raises the error where it is not of memory, and where other
        processes wait in an exchange that this one does not come to any more: `--resume` goes on for all of them."""
        recipe, step = self.at.recipe, int(self.at.trainer.state.global_step)
        at = AtFailure(recipe, self.at.file, error, step)
        results = run_checks(watch.guards, at, method=recipe.method, ignore={})
        found = [one for result in results for one in result.findings]
        changes = shrink(recipe.training)
        if not found:
            raise error
        if recipe.guards.memory_ran_out.action == "stop" or not changes:
            self.events.tell(found[0], "stopped the run", step)
            raise error
        changed = ", ".join(f"{key}: {value}" for key, value in changes.items())
        checkpoints = list_checkpoints(self.folder)
        newest = max(checkpoints, default=0)
        self.remedy.shrunk += 1
        self.remedy.save(self.folder)
        if count_ranks() > 1:
            way = "--resume goes on, in all processes, with" if checkpoints else "there is no checkpoint; set"
            done = f"stopped the run in process {read_rank()}; {way} {changed}"
            self.events.tell(found[0], done, step, alone=True)
            raise MemoryError(f"{found[0].message} It {done}") from error
        self.events.tell(found[0], f"went back to step {newest} with {changed}", step)
        self._rebuild(error)
        return checkpoints.get(newest)

    def _rebuild(self, error: Exception | None = None) -> None:
        if error is not None:
            error.__traceback__ = None  # its frames hold activations, which may be all the memory there is
        _release(self.at.trainer)
        for _ in range(self.remedy.shrunk - self.applied):
            changes = shrink(self.at.recipe.training)
            written, resolved = (
                recipe.model_copy(update={"training": recipe.training | changes})
                for recipe in (self.at.file.recipe, self.at.recipe)
            )
            self.at = replace(self.at, recipe=resolved, file=replace(self.at.file, recipe=written))
        self.applied = self.remedy.shrunk
        method = import_module(f"ftrun.runner.methods.{self.at.recipe.method}")
        self.at = method.build_model(narrow(self.at, AtData), self.folder)


def _release(trainer: Trainer) -> None:
    """Give back the memory of a trainer that others still hold."""
    import torch

    trainer.optimizer.state.clear()
    trainer.model_wrapped = trainer.model  # what wraps it has buckets as large as the gradients
    for tensor in (*trainer.model.parameters(), *trainer.model.buffers()):
        tensor.grad = None
        tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    trainer.accelerator.free_memory()


def _make_callback(recovery: Recovery) -> TrainerCallback:
    from transformers import TrainerCallback

    class ApplyRemedy(TrainerCallback):  # type: ignore[misc, unused-ignore]  # transformers is untyped here
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if recovery.judged is not None:
                judge(recovery, recovery.judged, state.global_step)
                if is_main():
                    recovery.remedy.save(recovery.folder)
                recovery.judged = None
            apply(recovery.remedy, recovery.at.trainer)

    return ApplyRemedy()


def judge(recovery: Recovery, alarm: Alarm, step: int) -> None:
    """Name the rows to blame, those for whose loss the good weights have no number either, and leave their step out.
    Without any the run goes on as before: what went wrong once may not come again. If it does, the step is left out; if
    that does not help, training itself went wrong, and goes on more slowly."""
    settings, at = recovery.at.recipe.guards, recovery.at
    if alarm.astray:
        name = "KL coefficient" if at.recipe.method == "ppo" else "beta"
        done = f"went back to step {step}, with a {name} of {recovery.remedy.coefficient:.3g}"
        if recovery.rollbacks > 1:  # that alone has not helped
            recovery.remedy.learning_rate_factor *= settings.learning_rate_factor
            done += f" and {recovery.remedy.learning_rate_factor:.3g} of the learning rate"
        recovery.events.tell(alarm.finding, done, alarm.step)
        return
    # A spike that reached the optimizer is told at its own step, and may be that of one row.
    spike = alarm.finding.id == "GUARD018" and alarm.finding.since == alarm.step
    remedy, culprits = recovery.remedy, name_culprits(at, alarm.batches, outliers=spike)
    if culprits:
        remedy.skipped.add(alarm.step)
        finding = replace(alarm.finding, evidence=culprits)
        rows = "; ".join(culprits)
        recovery.events.tell(
            finding, f"went back to step {step}, and leaves out step {alarm.step}, for {rows}", alarm.step
        )
        return
    if recovery.attempt == 0:
        recovery.events.tell(alarm.finding, f"went back to step {step}, and goes on as before", alarm.step)
        return
    if not recovery.is_slowed:
        remedy.skipped.add(recovery.since)
        recovery.suspected = recovery.since
        recovery.events.tell(
            alarm.finding, f"went back to step {step}, and leaves out step {recovery.since}", alarm.step
        )
        return
    remedy.skipped.discard(recovery.suspected or 0)
    remedy.learning_rate_factor *= settings.learning_rate_factor
    remedy.max_grad_norm = settings.max_grad_norm
    recovery.events.tell(
        alarm.finding,
        f"went back to step {step}, with {remedy.learning_rate_factor:.3g} of the learning rate and gradients clipped "
        f"to {settings.max_grad_norm:g}",
        alarm.step,
    )
