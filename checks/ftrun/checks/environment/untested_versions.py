"""A package is missing, or of a version that ftrun is not tested with.

Symptom: an ImportError, an unknown argument, or numbers that differ from those of the record.
Cause: a package was updated on its own; TRL and transformers rename arguments and change defaults between
minor versions.
Fix: install the versions that ftrun is tested with: `pip install "ftrun[train]"`.
Prevention: install with `-c constraints.txt`, and keep one environment a project.
Source: the ranges are those of ftrun's own package metadata.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtEnvironment
from ftrun.checks.versions import is_within

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("ENV006", title="packages are of versions that ftrun is tested with", severity="warning")
def untested_versions(at: AtEnvironment) -> Iterator[Finding]:
    """Tell packages that are missing, and those outside of their range."""
    machine = at.machine
    # Where torch is missing, ENV001 says how to install them all.
    absent = [name for name, version in machine.packages.items() if version is None and name != "torch"]
    if absent and machine.packages.get("torch") is not None:
        message = f"Not installed here: {', '.join(absent)}."
        yield Finding(message, 'Run `pip install "ftrun[train]"`.', severity="error")
    if not machine.tested:
        raise NotApplicable("ftrun runs from its source folder, without package metadata")
    outside = [
        f"{name} {version} is not {machine.tested[name]}"
        for name, version in machine.packages.items()
        if version is not None and name in machine.tested and not is_within(version, machine.tested[name])
    ]
    if outside:
        yield Finding(
            message=f"ftrun is not tested with what is installed: {'; '.join(outside)}.",
            fix='Run `pip install "ftrun[train]"`, which installs versions in those ranges.',
            evidence=tuple(outside),
        )


@untested_versions.fault
def an_old_transformers(world: World) -> None:
    """Another project pinned it."""

    def aged(at: AtEnvironment) -> AtEnvironment:
        packages = {**at.machine.packages, "transformers": "4.46.1"}
        tested = {**at.machine.tested, "transformers": ">=5.17,<6"}
        return replace(at, machine=replace(at.machine, packages=packages, tested=tested))

    world.after(AtEnvironment, aged)


@untested_versions.fault
def trl_is_missing(world: World) -> None:
    """torch is there, and what stands on it is not."""

    def without_trl(at: AtEnvironment) -> AtEnvironment:
        packages = {**at.machine.packages, "torch": "2.13.0", "trl": None}
        return replace(at, machine=replace(at.machine, packages=packages, tested={"trl": ">=1.16,<1.17"}))

    world.after(AtEnvironment, without_trl)
