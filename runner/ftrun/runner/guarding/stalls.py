"""Listening for signs of life: a thread that tells when a run has fallen silent.

The thread looks at a clock once a minute, so it costs nothing. It needs the interpreter: a library that hangs while it
holds Python's lock silences it as well. Where one of several processes hangs, the others wait for it: each writes where
it is, and the main one tells, and decides.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any

from ftrun.checks.guards.run_stalls import find_patience
from ftrun.checks.stages import AtModel
from ftrun.checks.training import AtSilence
from ftrun.runner.guarding.alarm import Alarm
from ftrun.runner.ranks import count_ranks, is_main, read_rank
from ftrun.runner.tracking.ledger import FAILURE_TAG

if TYPE_CHECKING:
    from transformers import Trainer, TrainerCallback

    from ftrun.runner.guarding.watch import Watch

STALLED_FILE, OTHERS_FILE = "stalled.txt", "stalled-{}.txt"

EVERY = 0.1
"""Of the patience with a step: how often the thread looks."""

GRACE = 60.0
"""Seconds that a run which is told to stop may take, before its process is ended."""


class Pulse:
    """The signs of life of a trainer."""

    def __init__(self) -> None:
        self.last = time.monotonic()
        self.longest = 0.0
        """Seconds between two signs of life in a step, the first one left out."""

        self.doing = "the first step"

    def beat(self) -> None:
        """Note a sign of life."""
        now = time.monotonic()
        if self.doing == "a step":
            self.longest = max(self.longest, now - self.last)
        self.last = now


class Listener(threading.Thread):
    """Tells a silence that is too long, from a thread of its own; where the guard's action is to stop, interrupts the
    main thread."""

    def __init__(self, watch: Watch, trainer: Trainer, pulse: Pulse) -> None:
        super().__init__(name="ftrun-stalls", daemon=True)
        self.watch, self.trainer, self.pulse = watch, trainer, pulse
        self.ended = threading.Event()
        self.alarm: Alarm | None = None
        """Why the main thread is interrupted."""

    def run(self) -> None:
        training, pulse = self.watch.training, self.pulse
        told, every = 0.0, EVERY * 60 * training.recipe.guards.run_stalls.minutes
        while not self.ended.wait(every):
            last = pulse.last
            at = AtSilence(
                training.recipe, training.file, time.monotonic() - last, pulse.longest, pulse.doing
            )
            if last != told and at.seconds >= find_patience(at):
                told = last
                self._dump(at)
                # The others have fallen silent with this one, but they may look at their clocks a little later.
                if is_main() and not (count_ranks() > 1 and self.ended.wait(2 * every)):
                    self._tell(replace(at, frames=_find_frames(), others=tuple(self._read_others())))

    def _dump(self, at: AtSilence) -> None:
        """Write where every thread of this process is."""
        name = STALLED_FILE if is_main() else OTHERS_FILE.format(read_rank())
        file, step = self.watch.events.folder / name, int(self.trainer.state.global_step)
        where = _find_frames()[-1:]
        with file.open("a", encoding="utf-8") as dump:
            dump.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}: {at.seconds:.1f} seconds behind step {step}")
            dump.write(f", at {where[0]}\n" if where else "\n")
            dump.flush()
            faulthandler.dump_traceback(dump, all_threads=True)
        self.watch.events.run.log_artifact(file)

    def _read_others(self) -> Iterator[str]:
        """Where the other processes are, those that have written it."""
        for rank in range(1, count_ranks()):
            file = self.watch.events.folder / OTHERS_FILE.format(rank)
            if file.is_file():
                lines = file.read_text(encoding="utf-8").splitlines()
                places = [line.partition(", at ")[2] for line in lines if " seconds behind step " in line]
                yield f"process {rank}: {places[-1]}"

    def _tell(self, at: AtSilence) -> None:
        try:
            self.watch.ask(at, int(self.trainer.state.global_step))
        except Alarm as alarm:
            self.alarm = alarm
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # wakes what waits, too
            if not self.ended.wait(GRACE):
                self._end_process(alarm)

    def _end_process(self, alarm: Alarm) -> None:
        """For a main thread that hangs where Python cannot interrupt it, as in a collective."""
        events = self.watch.events
        events.tell(alarm.finding, "ended the process, which could not be interrupted", alarm.step)
        events.run.set_tags({FAILURE_TAG: f"{alarm.finding.id}: {alarm.finding.message}"[:300]})
        events.run.finish("FAILED")
        os._exit(1)


def _find_frames() -> tuple[str, ...]:
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    return tuple(f"{one.filename}:{one.lineno} {one.name}" for one in traceback.extract_stack(frame))


@contextmanager
def listen(watch: Watch, trainer: Trainer, pulse: Pulse) -> Iterator[None]:
    """Tell silences that are too long, while inside. Outside of the main thread, which alone can be interrupted,
    nothing is listened to."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    listener = Listener(watch, trainer, pulse)
    before = signal.getsignal(signal.SIGINT)

    def interrupt(number: int, frame: FrameType | None) -> None:
        if listener.alarm is not None:
            raise listener.alarm
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGINT, interrupt)
    listener.start()
    try:
        yield
    finally:
        listener.ended.set()
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
        listener.join()


def make_callback(watch: Watch, at: AtModel) -> TrainerCallback:
    """Signs of life of a trainer, which is listened to while its `train` is under way."""
    from transformers import TrainerCallback

    pulse, train = Pulse(), at.trainer.train

    def train_heard(*args: Any, **kwargs: Any) -> Any:
        pulse.beat()
        with listen(watch, at.trainer, pulse):
            return train(*args, **kwargs)

    at.trainer.train = train_heard

    class HearSigns(TrainerCallback):  # type: ignore[misc, unused-ignore]  # transformers is untyped here
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            pulse.beat()

        on_substep_end = on_prediction_step = on_log = on_epoch_begin = on_step_begin

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            pulse.beat()
            pulse.doing = "an evaluation" if control.should_evaluate else "a step"
            if control.should_save:
                pulse.doing = "a checkpoint"  # what an evaluation may take, it may take before it, too

        on_epoch_end = on_step_end

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            pulse.beat()
            pulse.doing = "a step"

        def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            pulse.beat()
            if not control.should_save:
                pulse.doing = "a step"

    return HearSigns()
