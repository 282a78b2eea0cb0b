"""The word that was probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 60  # difflib compares in quadratic time; no key or file name that was misspelt is longer


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known word that is most like `word`, or None. Case makes no difference, nor `-` for `_`."""
    if len(word) > LONGEST:
        return None
    by_form = {_form(one): one for one in known}
    close = get_close_matches(_form(word), by_form, n=1, cutoff=cutoff)
    return by_form[close[0]] if close else None


def _form(word: str) -> str:
    return word.lower().replace("-", "_")
