"""Faults, and how they are planted: what `test_faults.py` asserts and `benchmarks/faults.py` measures.

    T002 = Fault("T002", "No answer ends with a token …", method="sft", earliest="data", source="trl#1623")

    @T002.planted(sft_chat, told="DATA003", at="data")
    def the_template_writes_no_end(world: World) -> None: ...

A planting names the checks that tell its true cause, one of which must be the first finding shown, and the stage
at which it does. `told=()` is a fault that passes unnoticed, on record as such.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ftrun.checks.testing import World

Method = Literal["all", "sft", "dpo", "reward", "ppo"]
StageName = Literal["recipe", "environment", "data", "model", "step", "training"]
Reason = Literal["prevented", "told while training: not yet", "not applicable here"]

ORDER: tuple[StageName, ...] = ("recipe", "environment", "data", "model", "step", "training")
"""The stages at which a fault can be told, the earliest first."""

BEFORE_WEIGHTS: tuple[StageName, ...] = ORDER[: ORDER.index("model")]


@dataclass(frozen=True)
class PlainRun:
    """A trainer of TRL's own that is built from a world's files: what a planting may damage there.

    It has the names of `AtModel`, so that what damages that stage damages this one.
    """

    trainer: Any
    model: Any
    tokenizer: Any


@dataclass(frozen=True)
class Fault:
    """A fault that people meet, or that was thought of here."""

    id: str
    """As the list of reports names it; from X101 on ours."""

    what: str
    method: Method
    earliest: StageName
    """The earliest stage at which it can be told."""

    source: str
    """Where it was reported."""

    def planted(
        self,
        *worlds: Callable[[Path], World],
        told: str | tuple[str, ...],
        at: StageName | None = None,
        trl: str | Callable[[PlainRun], PlainRun] | None = None,
        note: str = "",
    ) -> Callable[[Callable[[World], None]], Planting]:
        """Make a planting of a function that plants this fault in each of `worlds`."""

        def decorate(plant: Callable[[World], None]) -> Planting:
            ids = (told,) if isinstance(told, str) else told
            return Planting(self, plant.__name__, plant.__module__, worlds, plant, ids, at, trl, note)

        return decorate


@dataclass(frozen=True)
class Planting:
    """One way in which a fault comes about."""

    fault: Fault
    name: str
    module: str
    worlds: tuple[Callable[[Path], World], ...]
    plant: Callable[[World], None]
    told: tuple[str, ...]
    """Checks that name the true cause. Empty: none does."""

    at: StageName | None
    """The stage of the first finding."""

    trl: str | Callable[[PlainRun], PlainRun] | None
    """How a plain TRL script has this fault, where the world's files and damages of the model do not say it: a
    function that damages the run, or why it cannot have it."""

    note: str


@dataclass(frozen=True)
class Unplanted:
    """A fault that is not planted, and why."""

    fault: Fault
    reason: Reason
    why: str
    shown_by: str = ""
    """The test that shows it, `file::function`, where it is prevented."""
