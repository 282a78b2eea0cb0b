"""Nothing is heard of training for a long time.

Symptom: the run neither ends nor goes on; the device is idle, or busy waiting, and is paid for.
Cause: a data loader whose workers have died or wait for each other, a reward function that waits for a network, a
collective whose other processes are gone, a file system that does not answer.
Fix: look into `stalled.txt` in the run folder, which tells where every thread is, and of several processes into
`stalled-1.txt` and so on: the one that is in no collective is waited for by the others. Then go on with `--resume`.
`training.dataloader_num_workers: 0` tells whether it is the workers.
Prevention: save checkpoints; `guards.run_stalls: {action: stop}` ends a run that nobody watches.
Source: ten minutes are what torch.distributed gives a collective of NCCL by default; five times the longest step leaves
room for one that is slow for a reason. What is not a step, and the first one, which may compile, is given six times
as long: an hour.
"""

from __future__ import annotations

from collections.abc import Iterator

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.training import AtSilence

STEPS = 5
"""Times the longest step that a step may take."""

ELSE = 6
"""Times what a step may take that anything else may."""


@check("GUARD010", title="training goes on")
def run_stalls(at: AtSilence) -> Iterator[Finding]:
    if at.seconds < find_patience(at):
        return
    yield Finding(
        f"Nothing was heard of training for {describe_seconds(at.seconds)}, in {at.doing}; the longest silence before "
        f"was {describe_seconds(at.longest)}.",
        "stalled.txt in the run folder tells where every thread is. End the run, and go on with --resume.",
        at.where("guards.run_stalls"),
        evidence=(*at.frames[-5:], *at.others),
    )


def find_patience(at: AtSilence) -> float:
    """The seconds of silence that are too many for what is under way."""
    step = max(60 * at.recipe.guards.run_stalls.minutes, STEPS * at.longest)
    return step if at.doing == "a step" else ELSE * step


def describe_seconds(seconds: float) -> str:
    """`12 minutes`, or `3.2 seconds` where it is less than two minutes."""
    return f"{seconds:.1f} seconds" if seconds < 120 else f"{seconds / 60:.0f} minutes"
