"""The reference of DPO is not the policy as it starts.

Symptom: rewards and margins are not 0 at the first step, the loss does not begin at ln 2 (0.6931): the policy is
held to another model than the one that it is, and drifts towards that one.
Cause: a reference of another dtype, revision or checkpoint; adapters whose start changes the base (PiSSA, OLoRA), so
that turning them off gives no model at all; an adapter of an earlier stage that the reference lacks; log-probabilities
that were computed for other rows or another model.
Fix: load both models alike; initialise LoRA with its default; leave out `model.reference`, or name it on purpose.
Prevention: look at `rewards/margins` of the first step.
Source: eric-mitchell/direct-preference-optimization#34 (dtype). The log-probabilities of each answer are compared
within 10⁻⁶ of their size; precomputed ones, made in batches of other shapes, and those under DoRA within 10⁻³.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.reference import Batch, collate, log_probs, reference_of, without_dropout
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    import torch

    from ftrun.checks.testing import World

TOLERANCE = 1e-3
"""Share of a log-probability by which one that was computed in another batch may differ."""

ROUNDING = 1e-6
"""Share by which equal models may differ: CPUs choose by the address of the weights how to add."""


@check("DPO010", title="the reference is the policy as it starts", methods=("dpo",))
def reference_unlike_policy(at: AtModel) -> Iterator[Finding]:
    recipe: Any = at.recipe
    trainer = at.trainer
    if recipe.model.reference is not None:
        raise NotApplicable("the recipe names another reference")
    size = min(4, trainer.args.per_device_train_batch_size)
    batch = collate(trainer, trainer.train_dataset, 0, size)
    with without_dropout(trainer.model):
        policy = log_probs(trainer, trainer.model, batch)
        if not policy.isfinite().all():
            raise NotApplicable("log-probabilities are not finite, whatever the reference is")
        known, allowed = _of_reference(at, batch)
    off = (policy - known).abs()
    wrong = ~(off <= allowed * policy.abs())  # a NaN is no agreement
    if wrong.any():
        half = len(policy) // 2
        yield Finding(
            f"Policy and reference give {int(wrong.sum())} of {len(policy)} answers other log-probabilities before "
            f"the first step, by up to {float(off.max()):.3g} nats.",
            _fix(at),
            at.where("model.lora" if recipe.model.lora is not None else "model"),
            evidence=tuple(
                f"{'chosen' if i < half else 'rejected'} {i % half + 1}: {float(policy[i]):.4f}, "
                f"reference {float(known[i]):.4f}"
                for i in wrong.nonzero().flatten().tolist()[:4]
            ),
        )


def _of_reference(at: AtModel, batch: Batch) -> tuple[torch.Tensor, float]:
    """The reference's log-probabilities as the loss has them, and the share by which they may differ."""
    import torch

    trainer = at.trainer
    if "ref_chosen_logps" in batch:
        if trainer.args.ld_alpha is not None:
            raise NotApplicable(
                "precomputed log-probabilities of weighted tokens (ld_alpha) are none of whole answers"
            )
        return torch.cat([batch["ref_chosen_logps"], batch["ref_rejected_logps"]]), TOLERANCE
    with reference_of(trainer) as reference:
        if reference is None:
            raise NotApplicable("no reference is kept, and none was computed")
        # DoRA divides by norms of the weights, which adapters that are off leave out.
        has_dora = bool((at.recipe.model.lora or {}).get("use_dora"))
        return log_probs(trainer, reference, batch), TOLERANCE if has_dora else ROUNDING


def _fix(at: AtModel) -> str:
    start = (at.recipe.model.lora or {}).get("init_lora_weights", True)
    if start not in (True, "gaussian"):
        return f"Remove model.lora.init_lora_weights ({start}): it changes the base that the reference is."
    if at.recipe.training["precompute_ref_log_probs"]:
        return "Compute the reference's log-probabilities anew, with the model and rows of this run."
    return "Load the reference as the policy is: the same path, revision, dtype and attention."


@reference_unlike_policy.fault
def the_reference_is_of_another_type(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        import torch

        at.trainer.ref_model.to(torch.bfloat16)
        return at

    world.after(AtModel, damage)


@reference_unlike_policy.fault
def the_reference_is_another_checkpoint(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        at.trainer.ref_model.get_output_embeddings().weight.data *= 1.01
        return at

    world.after(AtModel, damage)


@reference_unlike_policy.fault
def adapters_begin_as_a_part_of_the_base(world: World) -> None:
    """PiSSA takes the largest singular values out of the base and into the adapters."""
    world.recipe["model"]["lora"] = {
        "r": 8,
        "target_modules": "all-linear",
        "init_lora_weights": "pissa",
    }


@reference_unlike_policy.fault
def precomputed_values_are_of_another_model(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        at.trainer.train_dataset = at.trainer.train_dataset.map(
            lambda row: {"ref_chosen_logps": row["ref_chosen_logps"] + 5.0}
        )
        return at

    world.recipe["training"]["precompute_ref_log_probs"] = True
    world.after(AtModel, damage)
