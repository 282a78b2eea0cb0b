"""The padding token is a token of the text, or has no row in the embedding.

Symptom: `index out of range` on a padded batch; or, after training, generation that ignores a word of its prompt.
Cause: the tokenizer declares an ordinary token as padding, or one that was added without resizing the model.
Where no attention mask is given, `generate` takes every padding token of a prompt for padding.
Fix: declare a reserved token as `pad_token` in the tokenizer_config.json of the model, or the token that ends
the text.
Source: unsloth#4104, unsloth#6524, torchtune#2425. Padding with a token that ends the text is harmless: TRL
masks by length. A token whose row is the embedding's `padding_idx` never receives a gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.rows import Rows
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ftrun.checks.testing import World


@check("MODEL014", title="the padding token is no part of the text", methods=("sft", "dpo"))
def pad_token_unfit(at: AtModel) -> Iterator[Finding]:
    import numpy as np

    pad, rows = at.tokenizer.pad_token_id, at.train
    embedding = at.model.get_input_embeddings()
    size = embedding.weight.shape[0]
    fix = "Set pad_token in the model's tokenizer_config.json to a reserved token, or to its end token."
    if pad >= size:
        yield Finding(
            message=f"The padding token {at.tokenizer.pad_token!r} has id {pad}; the embedding has {size} rows.",
            fix=fix,
            where=at.where("model.path"),
        )
        return
    if pad in at.stop_ids:
        return
    inner = rows.each(lambda block: _count_inside(block, pad))
    numbers = np.flatnonzero(inner)
    if not len(numbers):
        return
    blocked = getattr(embedding, "padding_idx", None) == pad
    yield Finding(
        message=f"The padding token {at.tokenizer.pad_token!r} (id {pad}) is trained {int(inner.sum())} times inside "
        f"{len(numbers)} of {len(rows)} rows, as a token of the text"
        + ("; its embedding never receives a gradient." if blocked else "."),
        fix=fix,
        where=at.where("model.path"),
        evidence=tuple(str(rows[int(i)].where) for i in numbers[:3]),
        severity="error" if blocked else "warning",
    )


def _count_inside(rows: Rows, pad: int) -> NDArray[np.int64]:
    """How often each row trains the token before its end."""
    inner = rows.labels == pad
    inner[rows.starts[1:] - 1] = False  # the last token of a row may end it
    return rows.count(inner)


@pad_token_unfit.fault
def pad_is_the_commonest_token(world: World) -> None:
    import numpy as np

    def damage(at: AtModel) -> AtModel:
        labels = at.train.labels
        at.tokenizer.pad_token_id = int(np.bincount(labels[labels > 9]).argmax())
        return at

    world.after(AtModel, damage)


@pad_token_unfit.fault
def pad_was_added_without_resizing(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        at.tokenizer.add_special_tokens({"pad_token": "<|fill|>"})
        return at

    world.after(AtModel, damage)
