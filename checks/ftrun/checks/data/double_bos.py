"""Rows begin with two tokens for the beginning of the text.

Symptom: a small loss of quality; the model sees in training what it never sees when it is used.
Cause: the text was rendered by a chat template, which writes the token, and the tokenizer adds it once more.
Fix: give conversations as messages, or take the token out of the text.
Source: trl#1114, trl#3328, torchtune#1065.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import clip
from ftrun.checks.finding import Finding
from ftrun.checks.rows import Rows
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ftrun.checks.testing import World

ENOUGH = 0.01


@check("DATA012", title="no row begins twice", methods=("sft", "reward", "dpo"))
def double_bos(at: AtData) -> Iterator[Finding]:
    import numpy as np

    bos, rows = at.tokenizer.bos_token_id, at.train
    if bos is None:
        raise NotApplicable("the tokenizer has no token for the beginning of a text")
    twice = rows.each(lambda block: _begins_with(block, [bos, bos]))
    if not twice.any() or twice.sum() < ENOUGH * len(rows):
        return
    first = rows[int(np.flatnonzero(twice)[0])]
    yield Finding(
        message=f"{int(twice.sum())} of {len(rows)} rows begin with {at.tokenizer.bos_token} twice "
        f"(id {bos}), as no text does when the model is used.",
        fix=f"Give conversations as messages, or remove {at.tokenizer.bos_token} from the text of the rows.",
        where=first.where,
        evidence=(f"{first.where}: {clip(at.tokenizer.decode(first.ids[:24].tolist()))}",),
    )


def _begins_with(rows: Rows, tokens: list[int]) -> NDArray[np.bool_]:
    import numpy as np

    begins = rows.lengths >= len(tokens)
    firsts = rows.starts[:-1][begins]
    begins[begins] = (rows.ids[firsts[:, None] + np.arange(len(tokens))] == tokens).all(1)
    return begins


@double_bos.fault
def texts_carry_the_token_twice(world: World) -> None:
    for row in world.rows[::8]:
        row["prompt"] = f"<|begin|><|begin|>{row['prompt']}"
