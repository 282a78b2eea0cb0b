"""Dropout makes the policy of DPO differ from itself.

Symptom: margins are not 0 at the first step although policy and reference are one model; rewards are noisy for ever.
Cause: TRL's `disable_dropout` sets the dropout layers to 0 and knows nothing of rates that attention reads from the
config (`attention_dropout` of Llama, Granite and others); or `disable_dropout: false`.
Fix: set `training.model_init_kwargs: {attention_dropout: 0.0}`, and leave `training.disable_dropout` at true.
Prevention: look at `rewards/margins` of the first step.
Source: LLaMA-Factory#10779, unsloth#1557, transformers#27315. Two forward passes in training mode agree, or there is
dropout.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.reference import collate, log_probs, training_mode
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("DPO012", title="the policy is the same at every forward pass", severity="warning", methods=("dpo",))
def policy_is_noisy(at: AtModel) -> Iterator[Finding]:
    import torch

    trainer = at.trainer
    batch = collate(trainer, trainer.train_dataset, 0, min(2, trainer.args.per_device_train_batch_size))
    with torch.random.fork_rng(enabled=True), training_mode(trainer.model):
        one, other = (log_probs(trainer, trainer.model, batch) for _ in range(2))
    if torch.equal(one, other):
        return
    if not (one.isfinite() & other.isfinite()).all():
        raise NotApplicable("log-probabilities are not finite, with dropout or without")
    far = float((one - other).abs().max())
    message = (
        f"Two forward passes of the policy in training mode differ by up to {far:.3g} nats for an answer: "
        "dropout is on, and the reference has none."
    )
    if not at.recipe.training["disable_dropout"]:
        fix = "Set training.disable_dropout to true."
        yield Finding(message, fix, at.where("training.disable_dropout"))
        return
    rates = {
        name: rate
        for name, rate in at.model.config.get_text_config().to_dict().items()
        if ("dropout" in name or "pdrop" in name) and isinstance(rate, float) and rate > 0
    }
    named = ", ".join(f"{name}: 0.0" for name in rates) or "attention_dropout: 0.0"
    fix = f"Set training.model_init_kwargs to {{{named}}}."
    evidence = tuple(f"config.{name} is {rate:g}" for name, rate in rates.items())
    yield Finding(message, fix, at.where("training.model_init_kwargs"), evidence=evidence)


@policy_is_noisy.fault
def attention_drops_by_its_config(world: World) -> None:
    """Llama's attention reads a number; there is no layer to turn off."""
    world.recipe["training"]["model_init_kwargs"] = {"attention_dropout": 0.2}


@policy_is_noisy.fault
def dropout_of_the_adapters_is_left_on(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        for name, p in at.model.named_parameters():
            if "lora_B" in name:  # adapters of zero drop nothing
                p.data += 0.01
        return at

    world.recipe["model"]["lora"] = {"r": 8, "target_modules": "all-linear", "lora_dropout": 0.2}
    world.recipe["training"]["disable_dropout"] = False
    world.after(AtModel, damage)
