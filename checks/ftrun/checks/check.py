"""A check: one fault that it tells, the stage it needs, and the worlds that prove it.

    @check("DATA003", severity="error", methods=("sft", "dpo"))
    def labels_without_stop_token(at: AtData) -> Iterator[Finding]: ...

    @labels_without_stop_token.fault
    def template_drops_the_end(world: World) -> None: ...

The decorator returns a frozen value and registers nothing. The module's docstring is the check's
documentation: a title line, then `Symptom:`, `Cause:`, `Fix:` and, where there is one, `Prevention:`.
The type of the function's one parameter is the stage that the check waits for.
"""

from __future__ import annotations

import sys
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ftrun.checks.finding import Finding, Severity

if TYPE_CHECKING:
    from ftrun.checks.testing import World

Fault = Callable[["World"], None]

ALL_METHODS = ("sft", "reward", "dpo", "ppo")


@dataclass(frozen=True)
class Check:
    """A check as the engine sees it."""

    id: str
    name: str
    severity: Severity
    methods: tuple[str, ...]
    title: str
    """The item of the checklist, put as what is right: shown when the check passes."""

    run: Callable[[Any], Iterator[Finding]]
    module: str
    faults: list[Fault] = field(default_factory=list, compare=False)

    def fault(self, plant: Fault) -> Fault:
        """Mark a function that plants, in a healthy world, the fault that this check must tell."""
        self.faults.append(plant)
        return plant

    @property
    def group(self) -> str:
        """The letters of the id: `DATA` of `DATA003`."""
        return self.id.rstrip("0123456789")

    @property
    def documentation(self) -> str:
        """The module's docstring."""
        return (sys.modules[self.module].__doc__ or "").strip()

    @cached_property
    def stage(self) -> type:
        """The type of the one parameter, resolved when first asked for: stages are declared light."""
        hints = typing.get_type_hints(self.run)
        hints.pop("return", None)
        (stage,) = hints.values()
        return typing.cast(type, stage)


def check(
    id: str, *, title: str, severity: Severity = "error", methods: tuple[str, ...] = ALL_METHODS
) -> Callable[[Callable[[Any], Iterator[Finding]]], Check]:
    """Make a check of a function that yields what it finds."""

    def decorate(run: Callable[[Any], Iterator[Finding]]) -> Check:
        return Check(
            id=id,
            name=run.__name__,
            severity=severity,
            methods=methods,
            title=title,
            run=run,
            module=run.__module__,
        )

    return decorate
