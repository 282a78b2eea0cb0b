"""Lines for people, as wide as their terminal, and whole in a pipe."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftrun.runner.printing.text import ASCII, Line, has_blocks, make_console

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 100
"""How wide tables and plots are where there is no terminal; text is not cut there."""


@dataclass(frozen=True)
class Screen:
    """What there is to write on."""

    width: int
    is_terminal: bool
    unicode: bool

    def lines(self, text: str, indent: int, style: str = "") -> Iterator[Line]:
        """A text in lines that fit, each with the same indent."""
        for part in self._wrapped(text, indent):
            yield Line(indent, ((part, style),))

    def field(
        self, label: str, text: str, *, indent: int = 2, column: int = 10, style: str = ""
    ) -> Iterator[Line]:
        """A text behind its label, the lines that follow below the first."""
        room = indent + column
        for number, part in enumerate(self._wrapped(text, room)):
            if number:
                yield Line(room, ((part, style),))
            else:
                yield Line(indent, ((f"{label:<{column}}", "dim"), (part, style)))

    def _wrapped(self, text: str, indent: int) -> Sequence[str]:
        if not self.is_terminal:
            return [text]
        # Words are not divided: paths and commands are copied.
        wide = max(20, self.width - indent)
        return textwrap.wrap(text, wide, break_long_words=False, break_on_hyphens=False) or [""]


def look_at_terminal(console: Console) -> Screen:
    """The screen of a console."""
    if not console.is_terminal:
        return Screen(PIPE_WIDTH, False, has_blocks())
    return Screen(console.width, True, has_blocks())


def print_lines(lines: Iterable[Line], console: Console | None = None) -> None:
    """Print lines, coloured on a terminal, in ASCII where there is nothing else."""
    from rich.text import Text

    console = console or make_console()
    in_ascii = not has_blocks()
    for line in lines:
        parts = [(text.translate(ASCII) if in_ascii else text, style) for text, style in line.parts]
        console.print(Text.assemble(" " * line.indent, *parts), soft_wrap=True)
