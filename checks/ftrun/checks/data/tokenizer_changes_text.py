"""The tokenizer gives back other text than it is given.

Symptom: the model answers without capitals, digits, accents or spaces, or half an answer, and the loss looks good.
Cause: a normaliser that was meant for another task (lower case, digits to 0), an unknown token where letters are
missing, a truncation or a decoder that was saved or lost with the tokenizer's files.
Fix: use the tokenizer as its model brought it, and load it again from there.
Prevention: encode and decode a text after every change of a tokenizer.
Source: texts of the rows are encoded and decoded again. White space, forms of one character that Unicode takes for
compatible (NFKC), and a tokenizer's own marks do not count. Told is where more than one text in five comes back as
other letters, or with fewer than half of its spaces. Byte-level and SentencePiece tokenizers of models in use change
none.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import BLANK, clip, parts_of, spread, squeeze
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

LOOKED_AT = 32
"""Rows of each source."""

MOST = 2000
"""Characters of a text."""

SHARE = 0.2
KEPT_SPACES = 0.5


@check("MODEL035", title="the tokenizer gives back the text that it is given", severity="warning")
def tokenizer_changes_text(at: AtData) -> Iterator[Finding]:
    texts = list(_texts(at))
    if not texts:
        raise NotApplicable("the rows have no text")
    changed = [(text, back) for text in texts if _differs(text, back := _return(at.tokenizer, text))]
    if len(changed) <= SHARE * len(texts):
        return
    text, back = min(changed, key=lambda pair: len(pair[0]))
    yield Finding(
        message=f"{len(changed)} of {len(texts)} texts of the rows come back from the tokenizer as other text.",
        fix="Load the tokenizer again from where the model came, or remove its normaliser; see the evidence for what "
        "is lost.",
        where=at.where("model.path"),
        evidence=(f"given: {clip(text, 100)}", f"back: {clip(back, 100)}"),
    )


def _texts(at: AtData) -> Iterator[str]:
    for source in at.sources:
        for i in spread(len(source.examples), LOOKED_AT).tolist():
            for part in parts_of(source.examples[i], source.loss_on):
                if part.text.strip():
                    yield part.text[:MOST]


def _return(tokenizer: Any, text: str) -> str:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    back: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return back


def _differs(text: str, back: str) -> bool:
    was, now = (_plain(one) for one in (text, back))
    spaces = len(text.split()) - 1
    return squeeze(was) != squeeze(now) or len(back.split()) - 1 < KEPT_SPACES * spaces


def _plain(text: str) -> str:
    """The text in Unicode's compatible form, without characters that have no width."""
    return unicodedata.normalize("NFKC", "".join(one for one in text if one not in BLANK))


@tokenizer_changes_text.fault
def capitals_are_lost(world: World) -> None:
    _normalise(world, {"type": "Lowercase"})


@tokenizer_changes_text.fault
def digits_are_all_zero(world: World) -> None:
    _normalise(world, {"type": "Replace", "pattern": {"Regex": "[0-9]"}, "content": "0"})


@tokenizer_changes_text.fault
def spaces_are_lost(world: World) -> None:
    _normalise(world, {"type": "Replace", "pattern": {"String": " "}, "content": ""})


def _normalise(world: World, normaliser: dict[str, Any]) -> None:
    """Give the tokenizer a normaliser, as its file would."""
    from dataclasses import replace

    def damage(at: AtData) -> AtData:
        import json
        from copy import deepcopy

        from tokenizers import Tokenizer

        tokenizer: Any = deepcopy(at.tokenizer)
        backend = json.loads(tokenizer.backend_tokenizer.to_str()) | {"normalizer": normaliser}
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(backend))
        return replace(at, tokenizer=tokenizer)

    world.after(AtData, damage)
