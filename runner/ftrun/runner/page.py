"""Rows as a page: one file without scripts or anything from elsewhere, which MLflow shows as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from ftrun.runner.samples import Sample, Token, spell_row
from ftrun.runner.tracking.secrets import redact_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_ROWS = 36
ENDS = 400
"""Tokens that a row shows of its beginning, and of its end, where it has more than both."""

STYLE = """
:root { color-scheme: light dark }
body { font: 14px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em }
h2 { font-size: 1em; margin: 2em 0 .4em }
pre { font: 13px/1.7 ui-monospace, monospace; margin: 0; overflow-wrap: anywhere; white-space: pre-wrap }
i { border-right: 1px solid #8886; font-style: normal; opacity: .65; unicode-bidi: isolate }
b i { background: #2a92; border-bottom: 2px solid #2a9; font-weight: 600; opacity: 1 }
.s { border-radius: 3px; outline: 1px dashed #c70 }
em { color: #c70; font-style: normal }
"""


def write_page(path: Path, title: str, samples: Sequence[Sample], tokenizer: PreTrainedTokenizerBase) -> None:
    """Write the page. A row that holds what looks like a secret is left out, and so are rows beyond MOST_ROWS."""
    shown = [one for one in samples[:MOST_ROWS] if not _holds_secret(one, tokenizer)]
    path.write_text("".join(_write(title, shown, len(samples), tokenizer)), encoding="utf-8")


def _holds_secret(sample: Sample, tokenizer: PreTrainedTokenizerBase) -> bool:
    text: str = tokenizer.decode(sample.row.ids.tolist())
    return redact_text(text) != text


def _write(
    title: str, samples: Sequence[Sample], count: int, tokenizer: PreTrainedTokenizerBase
) -> Iterator[str]:
    left = f" {count - len(samples)} more are left out." if len(samples) < count else ""
    yield (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}: rows</title>\n<style>{STYLE}</style>\n<h1>{escape(title)}</h1>\n"
        "<p>Rows as the model sees them. <b><i>Trained</i></b> tokens are marked, <i>others</i> are read alone, "
        '<i class="s">special</i> ones are dashed. · is a space, ⏎ a new line, ⁺ goes on with the character before '
        f"it.{left}</p>\n"
    )
    for sample in samples:
        tokens = spell_row(sample.row, tokenizer)
        yield f'<h2>{escape(sample.heading)}</h2>\n<pre dir="ltr">'
        if len(tokens) > 2 * ENDS:
            middle = tokens[ENDS:-ENDS]
            trained = sum(token.trained for token in middle)
            yield from _mark(tokens[:ENDS])
            yield f"\n<em>… {len(middle):,} tokens are left out, {trained:,} of them trained …</em>\n"
            tokens = tokens[-ENDS:]
        yield from _mark(tokens)
        yield "</pre>\n"


def _mark(tokens: Sequence[Token]) -> Iterator[str]:
    for trained, stretch in groupby(tokens, key=lambda token: token.trained):
        yield "<b>" if trained else ""
        for token in stretch:
            text = escape(token.text).replace("⏎", "⏎\n")
            yield f'<i class="s">{text}</i>' if token.special else f"<i>{text}</i>"
        yield "</b>" if trained else ""
