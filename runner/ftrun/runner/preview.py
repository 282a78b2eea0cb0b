"""`ftrun preview`: rows as the model will see them, token by token."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from ftrun.checks.rows import IGNORED, Row, Rows
from ftrun.checks.stages import AtData
from ftrun.runner.libraries import require_training, settle_libraries, silence_bars
from ftrun.runner.preflight import ascend
from ftrun.runner.printing.text import make_console, print_report
from ftrun.runner.validate import exit_code

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPACES = str.maketrans({" ": "·", "\n": "⏎\n", "\t": "⇥", "\r": "␍"})


def preview_recipe(recipe: Path, *, rows: int, sets: Sequence[str]) -> int:
    """Print the first `rows` rows of each source and split, and return the exit code."""
    from ftrun.checks.catalogue import load_checks

    require_training("preview")
    settle_libraries()
    silence_bars()
    console = make_console()
    with tempfile.TemporaryDirectory(prefix="ftrun-") as folder:
        # Only what makes rows impossible is of interest here: a preview shows doubtful rows too.
        checks = [check for check in load_checks("data") if check.stage.__name__.endswith("Failed")]
        ascent = ascend(
            recipe, checks=checks, folder=lambda file: Path(folder), sets=sets, upto=AtData, needed=AtData
        )
    if not isinstance(ascent.at, AtData):
        print_report(ascent.report)
        return exit_code(ascent.report)
    console.print(_legend(console))
    for name, split in (("train", ascent.at.train), ("eval", ascent.at.eval)):
        if split is not None:
            for index in _first_of_each(split, rows):
                side = ("chosen", "rejected")[index % 2] if split.sides == 2 else ""
                print_row(split[index], f"{name} {side}".strip(), ascent.at.tokenizer, console)
    return 0


def _first_of_each(rows: Rows, count: int) -> Iterator[int]:
    """The places of the first rows of each source, with both sides of a pair."""
    for source in range(len(rows.sources)):
        yield from (rows.origins[:, 0] == source).nonzero()[0][: count * rows.sides].tolist()


def _legend(console: Console) -> Text:
    if console.color_system is None:
        return Text(
            "Trained tokens stand in «», others as they are; | divides tokens, · is a space, ⏎ a new line."
        )
    return (
        Text("Trained tokens are ")
        .append("green", "bold green")
        .append(", others dim; | divides tokens, · is a space, ⏎ a new line.")
    )


def print_row(row: Row, split: str, tokenizer: PreTrainedTokenizerBase, console: Console) -> None:
    """Print one row: where it comes from, how long it is, and its tokens with the trained ones marked."""
    trained = int((row.labels != IGNORED).sum())
    cut = f", cut from {row.full_length}" if row.truncated else ""
    console.print(
        Text(f"\n{row.where} · {split} · {len(row.ids)} tokens{cut}, {trained} trained", style="bold")
    )
    colour = console.color_system is not None
    text = Text()
    for token, label in zip(row.ids.tolist(), row.labels.tolist(), strict=True):
        shown = tokenizer.decode([token]).translate(SPACES)
        if label == IGNORED:
            text.append(shown, "dim")
        else:
            text.append(shown if colour else f"«{shown}»", "bold green")
        text.append("|", "bright_black")
    console.print(text)
