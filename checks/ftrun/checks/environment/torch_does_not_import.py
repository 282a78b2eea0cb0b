"""torch cannot be imported.

Symptom: `ModuleNotFoundError: No module named 'torch'`, or an error about a shared library.
Cause: only the light part of ftrun is installed, torch is in another environment, or its libraries do not
fit the system (a wheel for another CUDA, a half finished upgrade).
Fix: install the training extra into this environment: `pip install "ftrun[train]"`.
Prevention: one virtual environment a project, made from the pinned versions of `constraints.txt`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtEnvironment

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("ENV001", title="torch imports")
def torch_does_not_import(at: AtEnvironment) -> Iterator[Finding]:
    """Tell why torch cannot be imported."""
    if at.machine.torch_error is None:
        return
    version = at.machine.packages.get("torch")
    if version is None:
        yield Finding("torch is not installed here.", 'Run `pip install "ftrun[train]"`.')
    else:
        message = f"torch {version} is installed and does not import: {at.machine.torch_error}"
        yield Finding(message, "Reinstall it: `pip install --force-reinstall torch`.")


@torch_does_not_import.fault
def torch_is_not_installed(world: World) -> None:
    """The light installation."""

    def without_torch(at: AtEnvironment) -> AtEnvironment:
        packages = {**at.machine.packages, "torch": None}
        error = "ModuleNotFoundError: No module named 'torch'"
        return replace(at, machine=replace(at.machine, packages=packages, torch_error=error))

    world.after(AtEnvironment, without_torch)


@torch_does_not_import.fault
def torch_is_broken(world: World) -> None:
    """A library of another CUDA."""

    def broken(at: AtEnvironment) -> AtEnvironment:
        packages = {**at.machine.packages, "torch": "2.13.0"}
        error = "ImportError: libcudart.so.13: cannot open shared object file"
        return replace(at, machine=replace(at.machine, packages=packages, torch_error=error))

    world.after(AtEnvironment, broken)
