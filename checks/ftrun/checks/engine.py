"""Running checks: which apply, in which order, and what each says."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ftrun.checks.check import Check
from ftrun.checks.finding import Finding
from ftrun.checks.report import Result


def run_checks(
    checks: Iterable[Check], stage: Any, *, method: str | None, ignore: Mapping[str, str]
) -> list[Result]:
    """The result of each of `checks` that waits for exactly this stage, in the order of their ids.

    `ignore` maps a check's id to the reason for which its findings stop nothing. `method` is None where
    the recipe could not be read: then every check applies.
    """
    waiting = sorted((one for one in checks if one.stage is type(stage)), key=lambda one: one.id)
    return [_run_check(one, stage, method, ignore.get(one.id)) for one in waiting]


def _run_check(one: Check, stage: Any, method: str | None, ignored: str | None) -> Result:
    if method is not None and method not in one.methods:
        return Result(one, "not_applicable", reason=f"not for method {method}")
    started = time.perf_counter()
    try:
        findings = tuple(_stamp(finding, one, ignored) for finding in one.run(stage))
    except NotApplicable as why:
        return Result(one, "not_applicable", reason=str(why), seconds=time.perf_counter() - started)
    except Exception as error:  # a plugin boundary: one broken check must not cost the others, nor the run
        reason = f"the check itself fails with {type(error).__name__}: {error}"
        return Result(one, "skipped", reason=reason, seconds=time.perf_counter() - started)
    seconds = time.perf_counter() - started
    return Result(one, "found" if findings else "passed", findings=findings, seconds=seconds)


def _stamp(finding: Finding, one: Check, ignored: str | None) -> Finding:
    return replace(finding, id=one.id, severity=finding.severity or one.severity, ignored=ignored)


class NotApplicable(Exception):
    """Raised by a check that has nothing to judge in this recipe; its text says why."""


def passed(checks: Iterable[Check], failure: type, *, method: str) -> list[Result]:
    """Results of the checks that wait for a failure which did not happen."""
    waiting = sorted((one for one in checks if one.stage is failure), key=lambda one: one.id)
    return [
        Result(one, "passed")
        if method in one.methods
        else Result(one, "not_applicable", reason=f"not for method {method}")
        for one in waiting
    ]


def skipped(checks: Iterable[Check], stage: type, *, method: str, reason: str) -> list[Result]:
    """Results of the checks whose stage was never reached."""
    waiting = sorted((one for one in checks if one.stage is stage), key=lambda one: one.id)
    return [
        Result(one, "skipped", reason=reason)
        if method in one.methods
        else Result(one, "not_applicable", reason=f"not for method {method}")
        for one in waiting
    ]
