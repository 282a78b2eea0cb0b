"""What ends training where a guard is to stop the run, or to go back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ftrun.checks.finding import Finding


class Alarm(Exception):
    """Raised out of training by a guard whose action is to stop or to go back."""

    def __init__(
        self, finding: Finding, action: str, step: int, batches: Sequence[Any], *, astray: bool = False
    ) -> None:
        super().__init__(finding.message)
        self.finding = finding
        self.action = action
        self.step = step
        """The update that was found wrong."""

        self.batches = batches
        """The micro-batches of that update."""

        self.astray = astray
        """It is the policy that went astray: no row is to blame, and it is to be held to its reference."""
