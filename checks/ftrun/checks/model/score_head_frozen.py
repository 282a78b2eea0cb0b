"""The head that scores is not trained, or will not be saved.

Symptom: accuracy stays near a half, or the saved adapter scores at random once it is loaded again.
Cause: the head of a new reward model holds random numbers. LoRA trains adapters alone, and saves a head only where
its module is among `modules_to_save`.
Fix: let the head be trained whole: name it under `model.lora.modules_to_save`.
Prevention: PEFT adds `score` and `classifier` itself for sequence classification; heads with other names need it.
Source: trl#1379, ms-swift#9239, LLaMA-Factory#4379.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.parameters import group_names
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("RM002", title="the head that scores is trained and saved", methods=("reward",))
def score_head_frozen(at: AtModel) -> Iterator[Finding]:
    head = _head_of(at)
    if not head:
        raise NotApplicable("the model has no weights beside its body")
    # An adapter on the head leaves the random numbers under it, which are saved nowhere.
    if any(p.requires_grad for name, p in head.items() if "lora_" not in name):
        return
    yield Finding(
        message=f"None of the {len(head)} tensors of the head that scores is trained as a whole"
        + (", so that the saved adapter will not hold it." if at.recipe.model.lora is not None else "."),
        fix="Name the head's module under model.lora.modules_to_save."
        if at.recipe.model.lora is not None
        else "Remove what freezes the head.",
        where=at.where("model.lora" if at.recipe.model.lora is not None else "model"),
        evidence=group_names(head),
    )


def _head_of(at: AtModel) -> dict[str, Any]:
    """The parameters of the classifier that are not those of its body."""
    model: Any = at.model
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    return {
        name: p for name, p in plain.named_parameters() if not name.startswith(f"{plain.base_model_prefix}.")
    }


@score_head_frozen.fault
def head_is_frozen_with_the_base(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        for p in _head_of(at).values():
            p.requires_grad_(False)
        return at

    world.recipe["model"]["lora"] = {"r": 8, "target_modules": "all-linear"}
    world.after(AtModel, damage)


@score_head_frozen.fault
def adapter_sits_on_the_head(world: World) -> None:
    """As with `task_type: CAUSAL_LM`, where the head is a linear layer as any other."""
    from dataclasses import replace

    def damage(at: AtModel) -> AtModel:
        from peft import LoraConfig, get_peft_model

        at.model.requires_grad_(False)
        adapted = get_peft_model(at.model, LoraConfig(target_modules=["q_proj", "score"]))
        return replace(at, model=adapted)

    world.after(AtModel, damage)
