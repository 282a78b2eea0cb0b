"""The reference of PPO is not the policy's start.

Symptom: KL is not 0 before the first step; the penalty pulls the policy to another model from the start.
Cause: the reference was loaded from another place or in another type, or adapters begin with an effect of their own.
Fix: leave the reference as the trainer makes it, and start adapters as no change (`init_lora_weights: true`).
Source: trl#2164; equality at the start in "The N Implementation Details of RLHF with PPO" (Huang 2023).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    from ftrun.checks.testing import World

PROMPTS, COLUMNS = 4, 64
ROUNDING = 1e-5
"""Share of the largest logit by which equal models may differ: copies of weights lie at other addresses, by which
CPUs choose how to add."""


@check("PPO008", title="the reference equals the policy at the start", methods=("ppo",))
def start_unlike_policy(at: AtModel) -> Iterator[Finding]:
    """Compare the logits of both on the first prompts: they are equal, but for rounding."""
    import torch

    trainer: Any = at.trainer
    policy = trainer.model.policy
    device = next(policy.parameters()).device  # not yet the GPU's with FSDP
    modes = [(module, module.training) for module in policy.modules()]
    policy.eval()
    most = largest = 0.0
    try:
        with torch.no_grad():
            for row in (at.train[i] for i in range(min(PROMPTS, len(at.train)))):
                ids = torch.tensor(row.ids[:COLUMNS].tolist(), device=device)[None]
                own = policy(input_ids=ids).logits
                largest = max(largest, float(own.abs().max()))
                with trainer.refer() as reference:
                    most = max(most, float((own - reference(input_ids=ids).logits).abs().max()))
    finally:
        for module, training in modes:
            module.training = training
    if not most <= ROUNDING * largest:
        yield Finding(
            f"Logits of policy and reference differ by up to {most:.3g} on the first prompts, before any step.",
            "Leave the reference as the trainer makes it; start adapters with init_lora_weights: true.",
            at.where("model.lora" if trainer.reference is None else "model"),
        )


@start_unlike_policy.fault
def the_reference_is_another_model(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        trainer: Any = at.trainer
        trainer.reference.model.norm.weight.data *= 1.001
        return at

    world.after(AtModel, damage)


@start_unlike_policy.fault
def adapters_begin_with_an_effect(world: World) -> None:
    world.recipe["model"]["lora"] = {"r": 4, "target_modules": "all-linear", "init_lora_weights": False}
