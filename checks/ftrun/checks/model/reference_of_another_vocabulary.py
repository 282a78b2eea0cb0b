"""The reference that the recipe names has another vocabulary than the policy.

Symptom: an index out of range in the reference, or rewards without any sense: the same ids are other words there.
Cause: `model.reference` is a model of another family.
Fix: name a model with the policy's tokenizer, such as the policy's own start.
Source: DPO compares log-probabilities of the same tokens (arXiv 2305.18290, equation 7).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.reference import own_reference
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("DPO011", title="policy and reference have one vocabulary", methods=("dpo",))
def reference_of_another_vocabulary(at: AtModel) -> Iterator[Finding]:
    recipe: Any = at.recipe
    if recipe.model.reference is None:
        raise NotApplicable("the reference is the policy as it starts")
    ours = at.model.get_input_embeddings().weight.shape[0]
    theirs = own_reference(at.trainer).get_input_embeddings().weight.shape[0]
    if ours != theirs:
        needed = max(int(block.ids.max()) for _, block in at.train.blocks()) + 1
        yield Finding(
            f"model.reference has {theirs:,} words and the policy {ours:,}: the same ids are other words there.",
            "Name a model under model.reference that has the policy's tokenizer.",
            at.where("model.reference"),
            # Embeddings padded to different lengths may belong to one tokenizer.
            severity="error" if theirs < needed else "warning",
        )


@reference_of_another_vocabulary.fault
def a_model_of_another_family(world: World) -> None:
    from ftrun.checks.stages import AtModel

    def damage(at: AtModel) -> AtModel:
        at.trainer.ref_model.resize_token_embeddings(64)
        return at

    world.recipe["model"]["reference"] = "tiny"
    world.after(AtModel, damage)
