"""The score is read at another token than the last one of a row.

Symptom: a row scores differently alone and in a batch; or an answer that was broken off scores as one that ended.
Cause: transformers' classifiers read the rightmost token that is not `config.pad_token_id`. Where that is not the
token that batches are padded with, padding is scored; where rows end with it, the token before their end is.
Fix: give the tokenizer a padding token of its own, which no row ends with: a reserved one, or the unknown token.
Prevention: look for `pad_token` in the model's tokenizer_config.json: the end-of-sequence token is a poor choice.
Source: transformers#35352, trl#550, trl#3307.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import spread
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    from ftrun.checks.testing import World

LOOKED_AT = 256
"""Pairs, evenly spread."""


@check("RM003", title="the score is read at the end of a row", methods=("reward",))
def score_read_elsewhere(at: AtModel) -> Iterator[Finding]:
    if not len(at.train_dataset):
        raise NotApplicable("there is no pair")
    pad = at.model.config.get_text_config().pad_token_id
    where, name = at.where("model.path"), f"{at.tokenizer.pad_token!r} (id {at.tokenizer.pad_token_id})"
    if pad is None:
        yield Finding(
            message="The model's configuration names no padding token, so that batches cannot be scored.",
            fix="Set pad_token in the model's tokenizer_config.json to a reserved token.",
            where=where,
        )
        return
    pairs = at.train_dataset.select(spread(len(at.train_dataset), LOOKED_AT))
    batch = at.trainer.data_collator([pairs[i] for i in range(len(pairs))])
    ids, mask = batch["input_ids"], batch["attention_mask"]
    places = mask.new_tensor(range(ids.shape[1]))
    read, last = ((places * kept).argmax(-1) for kept in ((ids != pad).long(), mask))
    beyond, before = int((read > last).sum()), int((read < last).sum())
    if beyond:
        yield Finding(
            message=f"{beyond} of {len(ids)} rows of a batch are scored at their padding: the model takes token {pad} "
            f"for padding, and batches are padded with {name}.",
            fix="Set pad_token_id in the model's config.json to the padding token of its tokenizer.",
            where=where,
        )
    elif before:
        yield Finding(
            message=f"{before} of {len(ids)} rows end with the padding token {name}, so that they are scored before "
            "their end: an answer that was broken off scores as one that ended.",
            fix="Set pad_token in the model's tokenizer_config.json to a reserved token that no row ends with.",
            where=where,
            severity="warning",
        )


@score_read_elsewhere.fault
def model_pads_with_another_token(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        at.model.config.pad_token_id = 7
        return at

    world.after(AtModel, damage)


@score_read_elsewhere.fault
def rows_end_with_padding(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        at.tokenizer.pad_token = at.tokenizer.eos_token
        at.trainer.data_collator.pad_token_id = at.tokenizer.eos_token_id
        at.model.config.pad_token_id = at.tokenizer.eos_token_id
        return at

    world.after(AtModel, damage)


@score_read_elsewhere.fault
def model_knows_no_padding(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        at.model.config.pad_token_id = None
        return at

    world.after(AtModel, damage)
