"""What differs between two sides, and from where on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ftrun.runner.story.history import Series
from ftrun.runner.story.sides import Setting, Side, Source

Value = TypeVar("Value")


@dataclass(frozen=True)
class Pair(Generic[Value]):
    """One thing of both sides; None where a side does not have it."""

    name: str
    a: Value | None
    b: Value | None


@dataclass(frozen=True)
class Divergence:
    """A metric of two runs, at the steps that both logged."""

    name: str
    a: Series
    b: Series
    common: int
    """At how many steps both have it."""

    first: int | None
    """The first of these at which it differs, None where it is the same at all."""

    worst: int | None
    """The one at which it differs most; one at which a side alone is no number goes before all others."""

    largest: float
    """By how much, which may be NaN."""


@dataclass(frozen=True)
class Difference:
    """Two sides, and what differs between them."""

    a: Side
    b: Side
    settings: tuple[Pair[Setting], ...]
    data: tuple[Pair[Source], ...]
    environment: tuple[Pair[str], ...]
    curves: tuple[Divergence, ...]
    """Every metric that both logged, equal ones too."""

    alone: tuple[Pair[Series], ...]
    """Metrics that one side alone logged."""

    results: tuple[Pair[Any], ...]
    """What both came to, equal ones too."""


def compare(a: Side, b: Side) -> Difference:
    """What differs between two sides. Of a recipe and a run only settings and data are compared; of two pipelines
    those of the stages that both have."""
    are_runs = a.kind.endswith("run") and b.kind.endswith("run")
    series = _pairs(a.series, b.series) if are_runs else []
    gone = {*a.stages} ^ {*b.stages} if a.stages and b.stages else set()
    return Difference(
        a,
        b,
        tuple(
            one
            for one in _pairs(a.settings, b.settings)
            if not _is_same_setting(one) and not _is_of(one, gone)
        ),
        tuple(one for one in _pairs(a.data, b.data) if not _is_same_source(one) and not _is_of(one, gone)),
        tuple(_compare_environments(a, b)) if are_runs else (),
        tuple(diverge(one.name, one.a, one.b) for one in series if one.a is not None and one.b is not None),
        tuple(one for one in series if one.a is None or one.b is None),
        tuple(_pairs(a.results, b.results)) if are_runs else (),
    )


def _compare_environments(a: Side, b: Side) -> Iterator[Pair[str]]:
    """What differs; a fact that one side alone has only where both are told whole."""
    for pair in _pairs(a.environment, b.environment):
        is_told = (a.has_lock and b.has_lock) or None not in (pair.a, pair.b)
        if pair.a != pair.b and is_told:
            yield pair


def diverge(name: str, a: Series, b: Series) -> Divergence:
    """Where a metric of two runs differs. Two NaN are the same."""
    theirs = dict(b.points)
    both = [(step, value, theirs[step]) for step, value in a.points if step in theirs]
    differing = [(step, abs(x - y)) for step, x, y in both if x != y and not (x != x and y != y)]
    if not differing:
        return Divergence(name, a, b, len(both), None, None, 0.0)
    worst, largest = max(differing, key=lambda one: (one[1] != one[1], one[1]))
    return Divergence(name, a, b, len(both), differing[0][0], worst, largest)


def _pairs(a: Mapping[str, Value], b: Mapping[str, Value]) -> list[Pair[Value]]:
    """The things of both, in the order of the first."""
    return [Pair(name, a.get(name), b.get(name)) for name in dict.fromkeys((*a, *b))]


def _is_of(pair: Pair[Value], stages: Set[str]) -> bool:
    return pair.name.partition(".")[0] in stages


def _is_same_setting(pair: Pair[Setting]) -> bool:
    return pair.a is not None and pair.b is not None and pair.a.value == pair.b.value


def _is_same_source(pair: Pair[Source]) -> bool:
    """By content: a file that was moved is the same. Where a digest is not known, by name."""
    if pair.a is None or pair.b is None:
        return False
    if pair.a.digest is None or pair.b.digest is None:
        return pair.a.name == pair.b.name
    return pair.a.digest == pair.b.digest and (
        None in (pair.a.rows, pair.b.rows) or pair.a.rows == pair.b.rows
    )
