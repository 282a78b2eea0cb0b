"""`ftrun preview`: rows as the model will see them, token by token."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from ftrun.checks.stages import AtData
from ftrun.runner.libraries import require_training, settle_libraries, silence_bars
from ftrun.runner.page import write_page
from ftrun.runner.preflight import ascend
from ftrun.runner.printing.text import make_console, print_report
from ftrun.runner.samples import Sample, choose_samples, spell_row
from ftrun.runner.validate import exit_code

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SIGNS = "| divides tokens, · is a space, ⏎ a new line, ⁺ goes on with the character before it."


def preview_recipe(recipe: Path, *, rows: int, sets: Sequence[str], html: Path | None = None) -> int:
    """Print rows that stand for all, `rows` of each source and split, and return the exit code.

    With `html`, they are written there instead, as a page.
    """
    from ftrun.checks.catalogue import load_failures

    require_training("preview")
    settle_libraries()
    silence_bars()
    with tempfile.TemporaryDirectory(prefix="ftrun-") as folder:
        # Only what makes rows impossible is of interest here: a preview shows doubtful rows too.
        ascent = ascend(
            recipe,
            checks=load_failures("data"),
            folder=lambda file: Path(folder),
            sets=sets,
            upto=AtData,
            needed=AtData,
        )
    at = ascent.at
    if not isinstance(at, AtData):
        print_report(ascent.report)
        return exit_code(ascent.report)
    console = make_console()
    samples = choose_samples(at, rows)
    if html is not None:
        write_page(html, at.recipe.name, samples, at.tokenizer)
        console.print(f"{len(samples)} rows are in {html}")
        return 0
    console.print(_legend(console))
    for sample in samples:
        print_sample(sample, at.tokenizer, console)
    return 0


def _legend(console: Console) -> Text:
    if console.color_system is None:
        return Text(f"Trained tokens stand in «», special ones in ⟦⟧, others as they are; {SIGNS}")
    return (
        Text("Trained tokens are ")
        .append("green", "bold green")
        .append(", others dim, special ones ")
        .append("underlined", "underline")
        .append(f"; {SIGNS}")
    )


def print_sample(sample: Sample, tokenizer: PreTrainedTokenizerBase, console: Console) -> None:
    """Print one row: where it comes from, why it is shown, how long it is, and its tokens, the trained ones marked."""
    console.print(Text(f"\n{sample.heading}", style="bold"))
    text = Text()
    for token in spell_row(sample.row, tokenizer):
        # A new line is one on the terminal too, so that the layout of a row can be seen.
        shown = token.text.replace("⏎", "⏎\n")
        if console.color_system is None:
            shown = f"⟦{shown}⟧" if token.special else shown
            text.append(f"«{shown}»" if token.trained else shown)
        else:
            style = "bold green" if token.trained else "dim"
            text.append(shown, f"{style} underline" if token.special else style)
        text.append("|", "bright_black")
    console.print(text)
