"""Every error that ftrun raises for a user to read.

    FtrunError                  one sentence that says what happened and what to do
    ├── RecipeError             the recipe file cannot be used; holds every mistake found, each with its line
    ├── MissingExtra            the command needs packages that the light install does not bring
    ├── DataError               rows cannot be read, recognised or tokenised
    ├── ModelError              the model or its tokenizer cannot be built as the recipe asks
    ├── TrackingError           the tracking store cannot be used
    ├── RunError                training started and could not go on
    └── NotProven               an exported model folder is not the model that was trained

A ValueError would do for code that people call; a command line needs a root that it can turn into one
line on the terminal. Anything that is not a FtrunError is our fault and is reported as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftrun.schemas.mistake import Mistake


class FtrunError(Exception):
    """The root: its text is shown to the user as it stands."""


class RecipeError(FtrunError):
    """The recipe file cannot be used.

    `mistakes` holds all that were found, in the order of the file.
    """

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(f"{mistake.where}: {mistake.message}" for mistake in self.mistakes))


class MissingExtra(FtrunError):
    """The command needs the packages of `ftrun[train]`."""

    def __init__(self, package: str, command: str) -> None:
        super().__init__(
            f"`ftrun {command}` needs {package}, which is not installed. "
            'Install it with: pip install "ftrun[train]"'
        )


class DataError(FtrunError):
    """Rows cannot be read, recognised or tokenised."""


class ModelError(FtrunError):
    """The model or its tokenizer cannot be built as the recipe asks."""


class TrackingError(FtrunError):
    """The tracking store cannot be used."""


class RunError(FtrunError):
    """Training started and could not go on."""


class NotProven(FtrunError):
    """A written model folder is not the model that was trained."""


def first_line(error: BaseException) -> str:
    """The type and the first line of an error's text."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
