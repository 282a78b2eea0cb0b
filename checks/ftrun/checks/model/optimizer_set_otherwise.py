"""The optimizer holds other settings than the recipe gives it.

Symptom: the loss rises although the rate is low; part of the model runs away, or shrinks, and the log shows nothing
of it.
Cause: an optimizer that was made by hand, or groups of parameters with settings of their own: `maximize` left on, a
rate of its own for the head, a weight decay for norms, betas of an example.
Fix: let the trainer make the optimizer from the recipe.
Prevention: the record says what the recipe asks for; look into `optimizer.param_groups` where a plugin changes them.
Source: PyTorch's documentation of per-parameter options. Each group is compared with the recipe: a rate more than
twice as high is told (and one below, from a tenth on), a decay above the recipe's, other betas or another epsilon.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    from ftrun.checks.testing import World

HIGHER, LOWER = 2.0, 0.1
PROJECTED = ("galore", "apollo")
PLAIN = ("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_apex_fused")
"""Optimizers whose settings are the recipe's as they stand; others have some of their own."""


@check("TRAIN044", title="the optimizer holds the settings of the recipe")
def optimizer_set_otherwise(at: AtModel) -> Iterator[Finding]:
    groups = getattr(at.trainer.optimizer, "param_groups", None)
    if not groups:
        raise NotApplicable("the optimizer has no groups of parameters")
    yield from _passed_over(at)
    told = set()
    for group in groups:
        for name, held, why in _differences(at.recipe.training, group):
            if name not in told and group["params"]:
                told.add(name)
                numbers = sum(p.numel() for p in group["params"])
                yield Finding(
                    message=f"The optimizer holds {name} {held} for {numbers:,} of the trained numbers{why}.",
                    fix="Let the trainer make the optimizer, from the recipe.",
                    where=at.where(
                        {"lr": "training.learning_rate", "weight_decay": "training.weight_decay"}.get(
                            name, "training.optim"
                        )
                    ),
                )


def _passed_over(at: AtModel) -> Iterator[Finding]:
    """What the recipe gives the optimizer, and transformers does not hand on to it."""
    training = at.recipe.training
    name = str(training["optim"])
    if training["optim_args"] and name in PLAIN:
        yield Finding(
            message=f"training.optim_args ({training['optim_args']}) has no effect: {name} does not read it.",
            fix="Set training.adam_beta1, adam_beta2, adam_epsilon and weight_decay in its place.",
            where=at.where("training.optim_args"),
            severity="warning",
        )
    if training["optim_target_modules"] is not None and not any(one in name for one in PROJECTED):
        yield Finding(
            message=f"training.optim_target_modules has no effect: {name} does not read it.",
            fix="Choose an optimizer that projects gradients, such as galore_adamw, or remove the key.",
            where=at.where("training.optim_target_modules"),
            severity="warning",
        )


def _differences(training: dict[str, Any], group: dict[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Name, value and what is wrong with it, of each setting of a group that is not the recipe's."""
    if group.get("maximize"):
        yield "maximize", True, ": each step makes the loss higher"
    if training["optim"] not in PLAIN or training["optim_args"]:
        return
    rate, wanted = float(group.get("initial_lr", group["lr"])), float(training["learning_rate"])
    # A rate of 0 may be a schedule that begins there.
    if rate > HIGHER * wanted or 0 < rate < LOWER * wanted:
        yield "lr", f"{rate:g}", f", and the recipe's learning rate is {wanted:g}"
    if group.get("weight_decay", 0.0) > training["weight_decay"]:
        yield "weight_decay", group["weight_decay"], f", and the recipe gives {training['weight_decay']:g}"
    betas = (training["adam_beta1"], training["adam_beta2"])
    if tuple(group.get("betas", betas)) != betas:
        yield "betas", group["betas"], f", and the recipe gives {betas}"
    if group.get("eps", training["adam_epsilon"]) != training["adam_epsilon"]:
        yield "eps", group["eps"], f", and the recipe gives {training['adam_epsilon']:g}"


@optimizer_set_otherwise.fault
def arguments_are_not_read(world: World) -> None:
    world.recipe["training"]["optim_args"] = "betas=0.9"


@optimizer_set_otherwise.fault
def modules_of_another_optimizer(world: World) -> None:
    world.recipe["training"]["optim_target_modules"] = ["q_proj"]


@optimizer_set_otherwise.fault
def it_climbs(world: World) -> None:
    _set(world, maximize=True)


@optimizer_set_otherwise.fault
def it_has_a_rate_of_its_own(world: World) -> None:
    _set(world, lr=0.05, initial_lr=0.05)


@optimizer_set_otherwise.fault
def it_forgets_at_once(world: World) -> None:
    _set(world, betas=(0.9, 0.0))


@optimizer_set_otherwise.fault
def it_shrinks_norms(world: World) -> None:
    _set(world, weight_decay=100.0)


def _set(world: World, **settings: Any) -> None:
    def damage(at: AtModel) -> AtModel:
        for group in at.trainer.optimizer.param_groups[-1:]:
            group.update(settings)
        return at

    world.after(AtModel, damage)
