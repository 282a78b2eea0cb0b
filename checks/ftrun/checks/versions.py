"""Comparing versions, without the `packaging` library, which the light installation does not bring."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping

from ftrun.checks.machine import Machine

Numbers = tuple[int, ...]

_COMPARE: Mapping[str, Callable[[Numbers, Numbers], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


def release(version: str) -> Numbers:
    """The numbers of a version, without trailing zeros: (2, 13) for `2.13.0+cpu`. What is before and after
    a release (`rc1`, `.dev0`, `.post1`) counts as the release."""
    match = re.match(r"v?(\d+(?:\.\d+)*)", version)
    numbers = [int(number) for number in match[1].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def is_newer(version: str, other: str) -> bool:
    """Whether `version` comes after `other`."""
    return release(version) > release(other)


def needs_newer_driver(machine: Machine) -> bool:
    """Whether torch's CUDA is of a later major version than the driver runs, and torch sees no device.

    Within one major version a newer minor one runs on an older driver; across major versions only with
    NVIDIA's compatibility package, and then torch sees the devices.
    """
    if machine.torch_cuda is None or machine.driver_cuda is None or machine.devices:
        return False
    return release(machine.torch_cuda)[:1] > release(machine.driver_cuda)[:1]


def is_within(version: str, bounds: str) -> bool:
    """Whether a version lies in a range such as `>=1.16,<1.17`.

    Raises ValueError where the range says something else than bounds joined by commas.
    """
    for bound in bounds.split(","):
        match = re.fullmatch(r"\s*(>=|<=|==|!=|>|<)\s*([\w.+]+)\s*", bound)
        if match is None:
            raise ValueError(f"{bound!r} in {bounds!r} is no bound of versions")
        if not _COMPARE[match[1]](release(version), release(match[2])):
            return False
    return True
