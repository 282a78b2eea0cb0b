"""The tokenizer no longer makes the tokens that its model was trained on.

Symptom: rows are three times as long as they should be, and the loss of the base is far above its usual one.
Cause: merges or scores were lost when the tokenizer was converted or edited, so that text falls apart into letters
that the model has hardly ever seen alone.
Fix: load the tokenizer again from where the model came, with its tokenizer.json.
Prevention: compare the tokens of a text before and after a tokenizer is converted.
Source: a token's own text, encoded, should give that token, but for few that other merges hide. Measured over up to
512 entries of the vocabulary: 100 % for byte-level BPE, 98 % for unigram, 80 % for SentencePiece BPE; 0 % for each BPE
without its merges. Under 30 % is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import spread
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

LOOKED_AT = 512
ENOUGH = 32
SHARE = 0.3
SHOWN = 3


@check("MODEL036", title="the tokenizer makes the tokens of its vocabulary")
def tokens_never_made(at: AtData) -> Iterator[Finding]:
    tokenizer: Any = at.tokenizer
    added = set(tokenizer.added_tokens_decoder)
    ids = [id for id in sorted(tokenizer.get_vocab().values()) if id not in added]
    words = [
        (id, text)
        for id in (ids[place] for place in spread(len(ids), LOOKED_AT).tolist())
        if len((text := tokenizer.decode([id], clean_up_tokenization_spaces=False)).strip()) > 1
        and "\ufffd" not in text
    ]
    if len(words) < ENOUGH:
        raise NotApplicable("the vocabulary has few tokens of several letters")
    lost = [text for _, text in words if _count(tokenizer, text) > 1]
    if len(words) - len(lost) >= SHARE * len(words):
        return
    shown = ", ".join(repr(text) for text in lost[:SHOWN])
    yield Finding(
        message=f"{len(lost)} of {len(words)} tokens that were tried are never made: their own text falls into "
        "several, "
        f"as that of {shown} does.",
        fix="Load the tokenizer again from where the model came: its merges or scores are lost.",
        where=at.where("model.path"),
    )


def _count(tokenizer: Any, text: str) -> int:
    """Tokens that a text falls into; the space that some tokenizers put before it is none."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return sum(bool(tokenizer.decode([id]).strip()) for id in ids)


@tokens_never_made.fault
def merges_are_lost(world: World) -> None:
    from dataclasses import replace

    def damage(at: AtData) -> AtData:
        import json
        from copy import deepcopy

        from tokenizers import Tokenizer

        tokenizer: Any = deepcopy(at.tokenizer)
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        backend["model"]["merges"] = []
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(backend))
        return replace(at, tokenizer=tokenizer)

    world.after(AtData, damage)
