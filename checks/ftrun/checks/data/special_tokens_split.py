"""Marks of the conversation are spelled out as ordinary tokens.

Symptom: the model writes `<|im_end|>` as text, and does not stop at it.
Cause: the chat template, or text that was rendered elsewhere, uses marks that the tokenizer does not know as
tokens of their own.
Fix: use the chat template that belongs to the tokenizer, or a model whose tokenizer knows these marks.
Source: marks in more than half of the rows looked at count; those of the tokenizer's own template are an
info, since some models (Zephyr) were trained so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import last_exchange, sample
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

# `[INST]` is left out: Llama 2 has it as plain text by design.
MARK = re.compile(r"<[|｜][^<>|｜\s]{1,40}[|｜]>|<(?:start|end)_of_[a-z]{1,20}>")
ENDS = re.compile(r"(?:</s>|<eos>)$")
"""What other models end on, at the end of an answer; elsewhere it may be a tag, or what the text is about."""

ENOUGH = 0.5


@check(
    "DATA016",
    title="marks of the conversation are single tokens",
    severity="warning",
    methods=("sft", "reward", "dpo"),
)
def special_tokens_split(at: AtData) -> Iterator[Finding]:
    import numpy as np

    chosen = sample(at.train, np.ones(len(at.train), np.bool_), 64)
    if not len(chosen):
        raise NotApplicable("there are no rows")
    rows: Counter[str] = Counter()
    for index in chosen:
        answer = last_exchange(at.train[int(index)].example)[1]
        text = at.tokenizer.decode(at.train.ids[_slice(at, int(index))].tolist())
        rows.update({*MARK.findall(text), *ENDS.findall(answer)})
    split = {}
    for mark, count in rows.items():
        ids = at.tokenizer(mark, add_special_tokens=False)["input_ids"]
        if count > ENOUGH * len(chosen) and len(ids) > 1:
            split[mark] = ids
    if not split:
        return
    own = at.recipe.model.chat_template is None and all(
        mark in str(at.tokenizer.chat_template) for mark in split
    )
    yield Finding(
        message=f"{len(split)} marks that the rows use are not tokens of this tokenizer and are spelled out: "
        f"{', '.join(sorted(split))}.",
        fix="Set model.chat_template to a template made for this tokenizer, or render text with its marks.",
        where=at.where("model.chat_template"),
        evidence=tuple(f"{mark} is {len(ids)} tokens: {ids}" for mark, ids in sorted(split.items())[:5]),
        severity="info" if own else "warning",
    )


def _slice(at: AtData, index: int) -> slice:
    return slice(int(at.train.starts[index]), int(at.train.starts[index + 1]))


@special_tokens_split.fault
def template_of_another_family(world: World) -> None:
    from ftrun.checks.testing import sft_chat

    world.rows = sft_chat(world.folder).rows
    world.folder.mkdir(parents=True, exist_ok=True)
    (world.folder / "other.jinja").write_text(
        "{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
        "{% generation %}{{ m.content + '<|eot_id|>' }}{% endgeneration %}{% endfor %}"
    )
    world.recipe["model"]["chat_template"] = "other.jinja"


@special_tokens_split.fault
def text_rendered_elsewhere(world: World) -> None:
    for row in world.rows:
        row["prompt"] = f"<start_of_turn>user\n{row['prompt']}<end_of_turn>\n<start_of_turn>model\n"


@special_tokens_split.fault
def the_end_token_of_another_model_is_written(world: World) -> None:
    for row in world.rows:
        row["completion"] += "</s>"
