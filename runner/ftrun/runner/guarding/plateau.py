"""Whether the loss falls is asked about fifty times in a run, until it is known why it does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ftrun.checks.optimisation import AtProgress, Cause
from ftrun.checks.stages import AtModel
from ftrun.runner.guarding.causes import find_cause
from ftrun.runner.ranks import alone, share

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from ftrun.runner.guarding.watch import Watch

TIMES, APART = 50, 10
"""How often a run is asked, and steps in between at least."""

KEPT = 2560
"""Losses at the start of the run that are kept: a run is judged against ever longer parts of its beginning."""


def _try_alone(at: AtModel, batches: Sequence[Any]) -> Cause | None:
    """What this process finds by trying with its own rows, while the others wait."""
    with alone():
        return find_cause(at, batches)


def make_callback(watch: Watch, at: AtModel) -> TrainerCallback:
    """A callback that asks the guards of progress. A run that goes on from a checkpoint is not asked: its beginning is
    not known."""
    from transformers import TrainerCallback

    class AskProgress(TrainerCallback):  # type: ignore[misc, unused-ignore]  # transformers is untyped here
        first: list[float]
        every = APART
        over = False

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.first, self.over = [], state.global_step > 0
            self.every = max(APART, math.ceil(state.max_steps / TIMES))

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.over or not len(watch.updates):
                return
            if len(self.first) < min(KEPT, len(watch.updates)):
                self.first.append(watch.updates.last(1)[0].loss)
            if state.global_step % self.every == 0:
                asked = AtProgress(
                    watch.training.recipe,
                    watch.training.file,
                    updates=watch.updates,
                    first=self.first,
                    warmup=args.get_warmup_steps(state.max_steps),
                    steps=state.max_steps,
                    find_cause=self.find,
                )
                watch.ask(asked, state.global_step)

        def find(self) -> Cause | None:
            self.over = True  # once: trying costs as much as some steps
            return share(partial(_try_alone, at, watch.batches))

    return AskProgress()
