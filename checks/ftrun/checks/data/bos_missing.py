"""Rows lack the token for the beginning of the text that the tokenizer gives every text.

Symptom: the loss starts far higher than it should, and answers are poor; some models speak gibberish.
Cause: the chat template does not write the token, and rendered conversations are tokenised without it.
Fix: begin the chat template with {{ bos_token }}, or use the template that the model was trained with.
Source: lm-evaluation-harness#1465 (Gemma: perplexity 5.9e9 without the token, 3.5 with it),
unsloth/notebooks#251.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import clip, cut_rows
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

ENOUGH = 0.01


@check(
    "DATA015",
    title="rows begin as the tokenizer begins a text",
    severity="warning",
    methods=("sft", "reward", "dpo"),
)
def bos_missing(at: AtData) -> Iterator[Finding]:
    import numpy as np

    bos, rows = at.tokenizer.bos_token_id, at.train
    if bos is None or at.tokenizer("x")["input_ids"][:1] != [bos]:
        raise NotApplicable("the tokenizer adds no token for the beginning of a text")
    begins = rows.lengths > 0
    if at.recipe.training.get("truncation_mode") == "keep_end":
        begins &= ~cut_rows(rows)
    # An empty row begins with no token; what it is given here is not looked at.
    firsts = rows.each(lambda block: np.append(block.ids, bos)[block.starts[:-1]])
    without, judged = np.flatnonzero(begins & (firsts != bos)), int(begins.sum())
    if len(without) <= ENOUGH * judged:
        return
    first = rows[int(without[0])]
    yield Finding(
        message=f"{len(without)} of {judged} rows do not begin with {at.tokenizer.bos_token} (id {bos}). "
        "The tokenizer puts it before every text, as it did when the model was trained first.",
        fix="Set model.chat_template to a template that begins with {{ bos_token }}.",
        where=at.where("model.chat_template"),
        evidence=(f"{first.where}: {clip(at.tokenizer.decode(first.ids[:24].tolist()))}",),
    )


@bos_missing.fault
def template_leaves_it_out(world: World) -> None:
    from copy import deepcopy

    def damage(at: AtData) -> AtData:
        from tokenizers.processors import TemplateProcessing

        tokenizer = deepcopy(at.tokenizer)
        bos = (tokenizer.bos_token, tokenizer.bos_token_id)
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{bos[0]} $A", special_tokens=[bos]
        )
        return replace(at, tokenizer=tokenizer)

    world.after(AtData, damage)
