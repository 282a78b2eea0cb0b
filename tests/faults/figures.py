"""The figures of a report on recall, over faults: one with several plantings counts where it holds for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.faults.plants import BEFORE_WEIGHTS, ORDER, Fault, Planting, StageName


@dataclass(frozen=True)
class Telling:
    """How one planting was told in one world."""

    planting: Planting
    shown: tuple[str, ...]
    """Ids of the findings, the first shown first."""

    at: StageName | None

    @property
    def told(self) -> bool:
        """Whether a check of the true cause is among those that speak."""
        return any(one in self.planting.told for one in self.shown)

    @property
    def first(self) -> bool:
        """Whether the first finding names the true cause."""
        return self.shown[:1] != () and self.shown[0] in self.planting.told

    def by(self, stage: StageName) -> bool:
        """Whether it was told at that stage or before."""
        return self.told and self.at is not None and ORDER.index(self.at) <= ORDER.index(stage)


@dataclass(frozen=True)
class Share:
    """How many of how many."""

    part: int
    whole: int

    @property
    def value(self) -> float:
        """The share; 1 of none."""
        return self.part / self.whole if self.whole else 1.0

    def __str__(self) -> str:
        return f"{self.part} of {self.whole} ({self.value:.1%})"


@dataclass(frozen=True)
class Figures:
    """What is asked of the checks."""

    recall: Share
    """Faults that are told."""

    first: Share
    """Of these, those whose true cause is the first finding shown."""

    earliest: Share
    """Faults that are told at the earliest stage at which they can be, or before."""

    before_weights: Share
    """Of the faults that can be told before any weight is loaded, those that are."""


def measure(tellings: Iterable[Telling]) -> Figures:
    """The figures over the faults of these tellings."""
    of: dict[str, list[Telling]] = {}
    for one in tellings:
        of.setdefault(one.planting.fault.id, []).append(one)
    faults = {id: group[0].planting.fault for id, group in of.items()}

    def count(ids: Sequence[str], holds: Callable[[Telling], bool]) -> Share:
        return Share(sum(all(map(holds, of[id])) for id in ids), len(ids))

    every, early = list(of), [id for id in of if _is_early(faults[id])]
    told = [id for id in every if all(one.told for one in of[id])]
    return Figures(
        recall=count(every, lambda one: one.told),
        first=count(told, lambda one: one.first),
        earliest=count(every, lambda one: one.by(one.planting.fault.earliest)),
        before_weights=count(early, lambda one: one.by(BEFORE_WEIGHTS[-1])),
    )


def _is_early(fault: Fault) -> bool:
    return fault.earliest in BEFORE_WEIGHTS


def expect(plantings: Iterable[Planting]) -> list[Telling]:
    """The tellings that the catalogue has on record; `test_faults.py` holds each of them."""
    return [Telling(one, one.told[:1], one.at) for one in plantings for _ in one.worlds]


def describe(figures: Figures) -> Mapping[str, Share]:
    """The figures by what they say."""
    return {
        "told": figures.recall,
        "true cause named first, of those told": figures.first,
        "told at the earliest possible stage or before": figures.earliest,
        "told before any weight is loaded, of those that can be": figures.before_weights,
    }
