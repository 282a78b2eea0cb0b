"""From a recipe's sources to the splits of a run: what every method's data stage begins with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ftrun.checks.rows import LossOn, SourceRows
from ftrun.runner.data.rendering import read_template
from ftrun.runner.data.sources import load_source
from ftrun.runner.data.splits import Split, split_rows
from ftrun.schemas.errors import DataError
from ftrun.schemas.sections import BaseRecipe, Fraction, Source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_splits(
    recipe: BaseRecipe, folder: Path, tokenizer: PreTrainedTokenizerBase, loss_on: LossOn | None = None
) -> tuple[tuple[SourceRows, ...], Split, Split | None]:
    """Every source as read, and the rows that train and that evaluate.

    `folder` is that of the recipe, `loss_on` what it says of which tokens train. Raises DataError where a
    source cannot be read.
    """
    eval_section = recipe.data.eval
    eval_sources = eval_section if isinstance(eval_section, list) else []
    fraction = eval_section.fraction if isinstance(eval_section, Fraction) else None

    def load(sources: Sequence[Source], key: str) -> tuple[SourceRows, ...]:
        return tuple(
            load_source(
                source,
                f"{key}.{index}",
                folder,
                method=recipe.method,
                loss_on=loss_on,
                has_template=tokenizer.chat_template is not None,
                can_mark_turns=_can_mark_turns(tokenizer),
            )
            for index, source in enumerate(sources)
        )

    train, held = load(recipe.data.train, "data.train"), load(eval_sources, "data.eval")
    train_split, eval_split = split_rows(
        train,
        [one.weight for one in recipe.data.train],
        held,
        [one.weight for one in eval_sources],
        fraction,
        recipe.training["seed"],
    )
    return train + held, train_split, eval_split


def _can_mark_turns(tokenizer: PreTrainedTokenizerBase) -> bool:
    try:
        return read_template(tokenizer, "assistant") is not None
    except DataError:
        return False
