"""Weights of the model are not in its checkpoint, and were drawn at random.

Symptom: the loss begins near that of guessing, or answers are gibberish, though the model is a trained one.
Cause: the checkpoint is of another architecture or task (an encoder, a reward model without a language head),
names differ by a prefix, or a shard is missing. transformers draws what it does not find, and goes on.
Fix: use the checkpoint that belongs to this configuration, with all of its files.
Prevention: read what transformers reports when it loads the model.
Source: transformers' loading report; tied weights and those that a model declares optional are not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.parameters import group_names
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    import torch

    from ftrun.checks.stages import AtData
    from ftrun.checks.testing import World

FOREIGN = 0.1
"""Share of tensors without a place in the model above which the checkpoint is taken for another model's."""


@check("MODEL008", title="every weight comes from the checkpoint", methods=("sft", "reward", "dpo"))
def weights_missing_from_checkpoint(at: AtModel) -> Iterator[Finding]:
    report = at.load_report
    lost = (*report["missing"], *report["mismatched"])
    tensors = max(1, sum(1 for _ in at.model.parameters()))
    if lost:
        yield Finding(
            message=f"{len(report['missing'])} tensors are not in the checkpoint and "
            f"{len(report['mismatched'])} have another shape there: they hold random numbers.",
            fix="Point model.path to a whole checkpoint of this architecture, with the head that it is said to have.",
            where=at.where("model.path"),
            evidence=group_names(lost),
        )
    unexpected = report["unexpected"]
    if unexpected:
        yield Finding(
            message=f"{len(unexpected)} tensors of the checkpoint have no place in the model and are left out.",
            fix="See that model.path is a model of the architecture that its config.json names.",
            where=at.where("model.path"),
            evidence=group_names(unexpected),
            severity="warning" if len(unexpected) > FOREIGN * tensors else "info",
        )


Tensors = dict[str, "torch.Tensor"]


def _plant(world: World, change: Callable[[Tensors], Tensors]) -> None:
    """Load the model from a copy of its folder in which `change` was made to the tensors."""
    import shutil
    from dataclasses import replace

    from ftrun.checks.stages import AtData

    def damage(at: AtData) -> AtData:
        from safetensors.torch import load_file, save_file

        folder = world.folder / "model"
        shutil.copytree(at.model_folder, folder)
        file = folder / "model.safetensors"
        save_file(change(load_file(file)), file, metadata={"format": "pt"})
        return replace(at, model_folder=str(folder))

    world.after(AtData, damage)


@weights_missing_from_checkpoint.fault
def head_is_missing(world: World) -> None:
    _plant(world, lambda tensors: {name: one for name, one in tensors.items() if name != "lm_head.weight"})


@weights_missing_from_checkpoint.fault
def names_carry_a_prefix(world: World) -> None:
    _plant(world, lambda tensors: {f"module.policy.{name}": one for name, one in tensors.items()})


@weights_missing_from_checkpoint.fault
def layers_of_a_deeper_model(world: World) -> None:
    _plant(
        world,
        lambda tensors: (
            tensors | {name.replace("layers.0.", "layers.9."): one.clone() for name, one in tensors.items()}
        ),
    )
