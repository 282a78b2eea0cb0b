"""The model is to have one score, and has several.

Symptom: loading fails with `size mismatch for score.weight`, or half of the logits are no scores of anything.
Cause: `model.path` is a classifier with more than one label, or `num_labels` is set in `model_init_kwargs`.
Fix: start from a language model or from a reward model with one score.
Prevention: transformers makes two labels unless it is told otherwise; ftrun tells it.
Source: trl#5066, trl#5087, ms-swift#3926, unsloth#1730.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("RM001", title="the model has one score", methods=("reward",))
def several_scores(at: AtData) -> Iterator[Finding]:
    wanted = (at.recipe.training["model_init_kwargs"] or {}).get("num_labels", 1)
    if wanted != 1:
        yield Finding(
            message=f"training.model_init_kwargs.num_labels is {wanted}; a reward model has one score.",
            fix="Remove num_labels from training.model_init_kwargs.",
            where=at.where("training.model_init_kwargs.num_labels"),
        )
    config = at.model_config
    kinds = [
        name for name in config.architectures or () if name.endswith("Classification") or "Reward" in name
    ]
    if kinds and config.num_labels != 1:
        yield Finding(
            message=f"{at.recipe.model.path} is a {kinds[0]} with {config.num_labels} labels; a reward model has one "
            "score.",
            fix="Set model.path to a language model, or to a reward model with one score.",
            where=at.where("model.path"),
        )


@several_scores.fault
def two_labels_are_asked_for(world: World) -> None:
    world.recipe["training"]["model_init_kwargs"] = {"num_labels": 2}


@several_scores.fault
def the_model_tells_good_from_bad(world: World) -> None:
    """A classifier with two labels, as sentiment models are."""
    from dataclasses import replace

    def damage(at: AtData) -> AtData:
        from transformers import LlamaConfig

        config = LlamaConfig(
            **{
                **at.model_config.to_dict(),
                "num_labels": 2,
                "architectures": ["LlamaForSequenceClassification"],
            }
        )
        return replace(at, model_config=config)

    world.after(AtData, damage)
