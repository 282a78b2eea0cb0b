"""Rows hold token ids that the model has no embedding for.

Symptom: an index error on a CPU, a device-side assertion on a GPU, some time after the start.
Cause: the tokenizer is of another model, or tokens were added to it and the embedding was not enlarged.
Fix: use the tokenizer that belongs to the model, or a model folder whose embedding has a row for every token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.limits import vocabulary_size
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("DATA014", title="the model has an embedding for every token", methods=("sft", "reward", "dpo"))
def token_outside_embedding(at: AtData) -> Iterator[Finding]:
    import numpy as np

    size = vocabulary_size(at.model_config)
    pad = at.tokenizer.pad_token_id
    if pad is not None and pad >= size:
        yield Finding(
            message=f"Rows are padded with {at.tokenizer.pad_token} (id {pad}), and the embedding has {size} "
            "rows.",
            fix="Set model.path to a folder whose tokenizer pads with a token that the model knows.",
            where=at.where("model.path"),
        )
    for rows in (at.train, at.eval):
        if rows is None:
            continue
        outside = rows.each(lambda block: block.count(block.ids >= size))
        holders = np.flatnonzero(outside)
        if not len(holders):
            continue
        ids = np.unique(np.concatenate([block.ids[block.ids >= size] for _, block in rows.blocks()]))
        yield Finding(
            message=f"{int(outside.sum())} tokens of {len(holders)} rows have ids from {ids[0]} to {ids[-1]}, and "
            f"the embedding of {at.recipe.model.path} has {size} rows; its tokenizer knows "
            f"{len(at.tokenizer)} tokens.",
            fix="Set model.path to a folder whose tokenizer and weights belong together.",
            where=at.where("model.path"),
            evidence=(
                f"first in {rows[int(holders[0])].where}",
                *(f"{id}: {at.tokenizer.decode([id])!r}" for id in ids[:4].tolist()),
            ),
        )


@token_outside_embedding.fault
def tokenizer_is_of_another_model(world: World) -> None:
    from copy import deepcopy

    def damage(at: AtData) -> AtData:
        config = deepcopy(at.model_config)
        config.vocab_size = 300
        return replace(at, model_config=config)

    world.after(AtData, damage)
