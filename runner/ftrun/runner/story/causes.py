"""Why a run did not end well: a table of causes, each with a test for its evidence in the record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ftrun.runner.story.advice import name_run
from ftrun.runner.story.evidence import (
    FRAME,
    find_broken,
    find_line,
    find_memory,
    find_rise,
    find_warnings,
    last_frame,
    last_line,
    tell_event,
)
from ftrun.runner.story.figures import tell_number
from ftrun.runner.story.history import History
from ftrun.runner.story.signs import SIGNS
from ftrun.runner.tracking.ledger import DISAPPEARED
from ftrun.runner.tracking.lookup import REPRODUCES

LEFT_OUT = "leaves out step"
"""What a guard does where rows are to blame."""

FULL = 95.0
"""Percent of the machine's memory in use behind which the system is likely to end processes."""


@dataclass(frozen=True)
class Cause:
    """What most likely went wrong, and why that is thought."""

    name: str
    what: str
    evidence: tuple[str, ...]
    fix: str

    def as_data(self) -> dict[str, Any]:
        """What JSON says of it."""
        return {"name": self.name, "what": self.what, "evidence": list(self.evidence), "fix": self.fix}


Test = Callable[[History], Cause | None]


def find_causes(history: History) -> list[Cause]:
    """The causes that the record speaks for, the likeliest first; `unknown` where a run did not end well and none
    fits. Nothing where it goes on, or ended well."""
    if history.run.state in ("running", "silent"):
        return []
    if history.run.state == "finished":
        ended = _guard(history) or _ended_early(history)
        return [] if ended is None else [ended]
    found = [cause for test in TESTS if (cause := test(history)) is not None]
    return found or [_guard(history) or _ignored(history) or _unknown(history)]


def _ended_early(history: History) -> Cause | None:
    run = history.run
    # A repetition may be of the first steps alone.
    if run.steps is None or not 0 < run.step < run.steps or REPRODUCES in run.tags:
        return None
    evidence = f"it ended by itself at step {run.step} of {run.steps}"
    fix = "Give it more rows, or set training.num_train_epochs in place of training.max_steps."
    return Cause("data_ended", "The rows ended before the steps did.", (evidence,), fix)


def _stage(history: History) -> Cause | None:
    broken = [one for one in history.children if one.state not in ("finished", "running")]
    if not broken:
        return None
    last = broken[-1]
    evidence = f"{last.name} is {last.state}" + (f": {last.failure}" if last.failure else "")
    stage = last.tags.get("ftrun.stage", last.name)
    return Cause(
        "stage",
        f"The stage {stage} did not end well.",
        (evidence,),
        f"Look at that stage: ftrun show {name_run(last)}",
    )


def _interrupted(history: History) -> Cause | None:
    run = history.run
    if run.state != "interrupted":
        return None
    is_first = run.failure == "interrupted"
    what = "It was asked to stop, by Ctrl-C or SIGTERM" + ("." if is_first else ", and ended at once.")
    evidence = f"the record says: {run.failure or 'killed'}" + (f", at step {run.step}" if run.step else "")
    return Cause("interrupted", what, (evidence,), "If that was not meant, go on with it.")


def _killed(history: History) -> Cause | None:
    run = history.run
    if run.state != "dead" and run.failure != DISAPPEARED:
        return None
    evidence = [
        "its process disappeared, and wrote no error"
        if run.failure == DISAPPEARED
        else "nobody holds the lock of its folder, and it did not say how it ended",
    ]
    if run.step:
        evidence.append(
            f"the last step that was logged is {run.step}" + (f" of {run.steps}" if run.steps else "")
        )
    memory = find_memory(history)
    if memory is not None:
        evidence.append(memory[1])
    if memory is not None and memory[0] >= FULL:
        what = "It was killed, most likely by the system, for memory."
        return Cause(
            "killed_for_memory", what, tuple(evidence), "Use less of the machine's memory, or a larger one."
        )
    return Cause(
        "killed",
        "It was killed from outside: SIGKILL, a limit of a scheduler or container, or a crash.",
        tuple(evidence),
        "Look at the scheduler's and the system's log (dmesg) for that time.",
    )


def _reward(history: History) -> Cause | None:
    """A reward function of the user's that raised."""
    functions = history.setting("reward.functions")
    names = {_base(str(one).partition(":")[0]) for one in (functions if isinstance(functions, list) else ())}
    for frame in reversed(list(FRAME.finditer(history.files.error))):
        if _base(frame["file"]) in names:
            return Cause(
                "reward_function",
                "A reward function of the recipe raised.",
                (last_line(history.files.error), f"at {frame['file']}:{frame['line']}, in {frame['name']}"),
                "Correct the function; docs/ppo.md says what it is given and what it returns.",
            )
    return None


def _traceback(history: History) -> Cause | None:
    for sign in SIGNS:
        line = find_line(sign.pattern, history.files.error)
        if line is not None:
            told = [tell_event(one) for one in history.files.events if one.guard == "GUARD009"]
            size = history.setting("training.per_device_train_batch_size")
            if sign.name == "out_of_memory" and size is not None:
                told.append(f"it began with a micro-batch of {size}")
            return Cause(sign.name, sign.what, (line, *told), sign.fix)
    return None


def _row(history: History) -> Cause | None:
    """A row that good weights cannot compute either: the guard asked them."""
    guilty = [one for one in history.files.events if LEFT_OUT in one.done]
    if not guilty or history.files.error:
        return None
    return Cause(
        "row",
        "Rows of the data cannot be computed.",
        (
            "the weights from before the bad step have no finite loss for them either",
            *(f"step {one.step}: {row}" for one in guilty for row in one.evidence),
        ),
        "Look at them with `ftrun preview`, and take them out or correct them.",
    )


def _half_precision(history: History) -> Cause | None:
    is_half = history.setting("training.fp16") is True or history.setting("model.dtype") == "float16"
    broken = find_broken(history)
    if not is_half or not broken or history.files.error:
        return None
    norm = history.series.get("train/grad_norm")
    high = None if norm is None else norm.highest
    most = (
        []
        if high is None
        else [f"the largest gradient before has the norm {tell_number(high[1])}, at step {high[0]}"]
    )
    return Cause(
        "float16_overflow",
        "Numbers grew beyond what float16 holds.",
        (*broken, "it trains in float16, whose largest number is 65,504", *most),
        "Train in bfloat16 (training.bf16: true) where the device has it, else in float32.",
    )


def _learning_rate(history: History) -> Cause | None:
    """The loss left what it had reached while its gradients grew; or it was no number, without a row to blame, and
    preflight or a second attempt speaks against the rate."""
    if history.files.error:
        return None
    rise, broken, warned = find_rise(history), find_broken(history), find_warnings(history)
    guards = ("GUARD001", "GUARD002")
    blameless = [one for one in history.files.events if one.guard in guards and LEFT_OUT not in one.done]
    ran_away = [tell_event(one) for one in blameless if one.guard == "GUARD002"]
    if not (rise or ran_away or (broken and (warned or len(blameless) > 1))):
        return None
    rate = history.setting("training.learning_rate")
    told = [] if not isinstance(rate, float | int) else [f"training.learning_rate is {rate:g}"]
    return Cause(
        "learning_rate",
        "The learning rate is too high.",
        tuple(dict.fromkeys((*rise, *ran_away, *broken, *warned, *told))),
        "Lower training.learning_rate tenfold, clip gradients with training.max_grad_norm: 0.5, and warm up.",
    )


def _guard(history: History) -> Cause | None:
    """A guard that stopped the run, whatever it guards."""
    told = [one for one in history.files.events if one.done.startswith(("stopped", "ended"))]
    if not told:
        return None
    last = told[-1]
    return Cause("guard", f"{last.guard} stopped it.", (tell_event(last), *last.evidence), last.fix)


def _ignored(history: History) -> Cause | None:
    """What a check had called an error, and was told to ignore."""
    told = [
        one
        for one in history.files.preflight.get("findings", ())
        if one.get("ignored") and one.get("severity") == "error"
    ]
    if not told:
        return None
    evidence = [f"{one.get('id')}: {one.get('message')}" for one in told]
    error = history.files.error
    evidence += [f"it ended with {last_line(error)}"] if error else []
    return Cause(
        "ignored_finding",
        "Preflight had called this an error, and was told to ignore it.",
        tuple(evidence),
        str(told[0].get("fix")),
    )


def _unknown(history: History) -> Cause:
    error = history.files.error
    evidence = [last_line(error), f"at {last_frame(error)}" if last_frame(error) else ""] if error else []
    evidence += [f"the record says: {history.run.failure}"] if history.run.failure and not error else []
    evidence += [tell_event(one) for one in history.files.events[-1:]]
    what = "Unknown: the record speaks for no cause that ftrun knows."
    folder = history.run.folder
    where = f"The whole traceback is in {folder / 'error.txt'}." if error and folder else ""
    fix = where or ("Its traceback is among MLflow's artifacts, ftrun/error.txt." if error else "")
    return Cause("unknown", what, tuple(one for one in evidence if one), fix)


def _base(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]


TESTS: tuple[Test, ...] = (
    _stage,
    _interrupted,
    _killed,
    _reward,
    _traceback,
    _row,
    _half_precision,
    _learning_rate,
)
"""The likeliest first: what the record says outright, then what follows from several of its parts."""
