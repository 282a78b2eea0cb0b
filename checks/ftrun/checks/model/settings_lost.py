"""The trainer holds another value than the recipe gives it.

Symptom: a setting is changed and nothing else does; two runs that should differ are the same.
Cause: a trainer or a callback that keeps its default, compares a name with the wrong type, or overwrites what it was
given.
Fix: correct what builds or changes the trainer; the value of the recipe is what the record says of the run.
Prevention: change one setting and look whether the second loss changes.
Source: trl#4171, trl#5079, trl#1705. Every number, name and switch of the resolved recipe's `training:` is compared
with the trainer's arguments, and with what it keeps under the same name for its loss or for sampling.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    from ftrun.checks.testing import World

DECIDED = (
    "dataloader_pin_memory",
    "use_cpu",
    "padding_free",
    "pad_to_multiple_of",
    "truncation_mode",
    "shuffle_dataset",
    "gradient_checkpointing",
)
"""What the device and packing decide, and what has had its effect before the trainer is built."""


@check("TRAIN041", title="every setting reaches the trainer", severity="warning")
def settings_lost(at: AtModel) -> Iterator[Finding]:
    trainer: Any = at.trainer
    # A pair that is too long has been left out before the trainer of reward models could.
    done = (*DECIDED, "max_length") if at.recipe.method == "reward" else DECIDED
    holders = (trainer.args, trainer, getattr(trainer, "sampling", None))
    for name, wanted in at.recipe.training.items():
        if name in done or not isinstance(wanted, bool | int | float | str):
            continue
        held = [vars(one)[name] for one in holders if one is not None and name in vars(one)]
        other = [value for value in held if _differs(wanted, value)]
        if other:
            yield Finding(
                message=f"training.{name} is {wanted!r} in the recipe, and the trainer has {other[0]!r}.",
                fix="Correct what builds or changes the trainer, or write the value that is used.",
                where=at.where(f"training.{name}"),
            )


def _differs(wanted: object, held: object) -> bool:
    """Whether two values are other ones; one that the trainer keeps in another form is not judged."""
    if isinstance(wanted, str):
        return isinstance(held, str) and str(getattr(held, "value", held)) != wanted
    return isinstance(held, bool | int | float) and held != wanted


@settings_lost.fault
def the_trainer_keeps_its_default(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        at.trainer.args.max_grad_norm = 1.0
        return at

    world.recipe["training"]["max_grad_norm"] = 0.3
    world.after(AtModel, damage)
