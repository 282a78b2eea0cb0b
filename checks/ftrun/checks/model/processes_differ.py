"""The processes of a run begin with other weights, or read other rows.

Symptom: training goes well, and what comes out is not what any of the files would have given. Where the first process
overwrites the weights of the others (DDP), the trouble is hidden; a reference and sharded weights are not overwritten.
Cause: machines with another copy of the model, the data or the tokenizer at the same path, or a layer that is drawn
without the seed. Rows that differ are also dealt wrongly: some are trained twice and some never.
Fix: give every machine the same files, best on a shared disk, or name a revision of the hub.
Prevention: start several processes from one folder that all machines see.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtModel, Process

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("MODEL029", title="all processes train the same weights on the same rows")
def processes_differ(at: AtModel) -> Iterator[Finding]:
    if not at.processes:
        raise NotApplicable("the run has one process")
    first = at.processes[0]
    for what, key, mine, theirs in (
        ("weights", "model.path", first.weights, [one.weights for one in at.processes]),
        ("rows", "data.train", first.rows, [one.rows for one in at.processes]),
    ):
        others = [rank for rank, digest in enumerate(theirs) if digest != mine]
        if others:
            who = "process" if len(others) == 1 else "processes"
            yield Finding(
                f"{who} {', '.join(map(str, others))} of {len(theirs)} would train other {what} than process 0.",
                "Give every machine the same files, best on a shared disk.",
                at.where(key),
                evidence=tuple(f"process {rank}: {digest[:16]}" for rank, digest in enumerate(theirs[:8])),
            )


def _with_another(at: AtModel, **changed: str) -> AtModel:
    first = Process("a" * 64, "b" * 64)
    return replace(at, processes=(first, replace(first, **changed)))


@processes_differ.fault
def one_machine_has_another_model(world: World) -> None:
    world.after(AtModel, lambda at: _with_another(at, weights="c" * 64))


@processes_differ.fault
def one_machine_has_other_rows(world: World) -> None:
    world.after(AtModel, lambda at: _with_another(at, rows="c" * 64))
