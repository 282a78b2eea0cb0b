"""Ctrl-C and SIGTERM: the step under way is finished, a checkpoint is saved, and the run ends as KILLED."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

from ftrun.runner.ranks import any_says

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainerControl


@dataclass
class Interruption:
    """Whether somebody has asked the run to stop."""

    signal: int | None = None
    heeded: bool = False
    """Whether training ends for it: where there are several processes, in all of them at the same step."""

    @property
    def asked(self) -> bool:
        """Whether a signal has arrived."""
        return self.signal is not None


@contextmanager
def watch_signals(interruption: Interruption) -> Iterator[None]:
    """Note the first SIGINT or SIGTERM; a second one raises KeyboardInterrupt at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return

    def note(number: int, frame: FrameType | None) -> None:
        if interruption.asked:
            raise KeyboardInterrupt
        interruption.signal = number

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def make_callback(interruption: Interruption) -> TrainerCallback:
    """A callback that saves and stops at the end of the step in which a signal arrived, in whichever process."""
    from transformers import TrainerCallback

    class StopWhenAsked(TrainerCallback):  # type: ignore[misc, unused-ignore]  # transformers is untyped here
        def on_step_end(
            self, args: Any, state: Any, control: TrainerControl, **kwargs: Any
        ) -> TrainerControl:
            if any_says(interruption.asked):
                interruption.heeded = True
                control.should_save = True
                control.should_training_stop = True
            return control

    return StopWhenAsked()


def make_end(step: int) -> TrainerCallback:
    """A callback that ends training after a step, whatever is left of the schedule."""
    from transformers import TrainerCallback

    class EndThere(TrainerCallback):  # type: ignore[misc, unused-ignore]  # transformers is untyped here
        def on_step_end(
            self, args: Any, state: Any, control: TrainerControl, **kwargs: Any
        ) -> TrainerControl:
            control.should_training_stop |= state.global_step >= step
            return control

    return EndThere()
