"""The reference that the recipe names knows nothing of what the policy knows.

Symptom: rewards are huge from the first step, and the policy is pulled back to where a model guesses.
Cause: `model.reference` is a folder of random weights, of another run that failed, or of another family.
Fix: name the model that the policy starts from, or leave `model.reference` out.
Prevention: look at `rewards/margins` of the first step: they are small where policy and reference are kin.
Source: principle: DPO holds the policy to a reference that is its start (arXiv 2305.18290), or near to it. Told is a
reference whose chosen answers cost 0.9 ln V a token, as they do one that guesses, where the policy's cost less than
two thirds of that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.reference import collate, log_probs, own_reference, without_dropout
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    from ftrun.checks.testing import World

GUESSING, KNOWING = 0.9, 0.6
PAIRS = 8


@check("DPO015", title="the reference knows the answers as the policy does", methods=("dpo",))
def reference_guesses(at: AtModel) -> Iterator[Finding]:
    recipe: Any = at.recipe
    if recipe.model.reference is None:
        raise NotApplicable("the reference is the policy as it starts")
    trainer = at.trainer
    reference = own_reference(trainer)
    if reference.get_input_embeddings().weight.shape[0] < len(at.tokenizer):
        raise NotApplicable("the reference has another vocabulary")
    batch = collate(trainer, trainer.train_dataset, 0, PAIRS)
    chosen = len(batch["input_ids"]) // 2
    tokens = int(batch["completion_mask"][:chosen].sum())
    with without_dropout(trainer.model):
        own, theirs = (
            -float(log_probs(trainer, model, batch)[:chosen].sum()) / tokens
            for model in (trainer.model, reference)
        )
    guessing = math.log(at.model.config.get_text_config().vocab_size)
    if theirs >= GUESSING * guessing and own <= KNOWING * guessing:
        yield Finding(
            f"The chosen answers cost model.reference {theirs:.2f} nats a token, where guessing costs {guessing:.2f}, "
            f"and the policy {own:.2f}: the reference knows nothing of them.",
            "Name the model that the policy starts from under model.reference, or leave it out.",
            at.where("model.reference"),
        )


@reference_guesses.fault
def the_reference_was_never_trained(world: World) -> None:
    """The policy knows its answers, and the reference is a model as it was drawn."""
    from ftrun.checks.testing import dpo_full

    def learn(at: AtModel) -> AtModel:
        import torch

        optimizer = torch.optim.AdamW(at.model.parameters(), lr=5e-3)
        rows = [at.train[2 * pair].ids.tolist() for pair in range(PAIRS)]
        for row in rows * 8:
            ids = torch.tensor([row])
            at.model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return at

    healthy = dpo_full(world.folder)
    world.recipe, world.rows = healthy.recipe, healthy.rows
    world.recipe["model"]["reference"] = world.recipe["model"]["path"]
    world.after(AtModel, learn)
