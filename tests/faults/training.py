"""Faults that show while training: told there by guards, or before it where their cause can be seen."""

from __future__ import annotations

from typing import Any

from tests.faults.plants import Fault, Method, Unplanted

from ftrun.checks.stages import AtModel
from ftrun.checks.testing import World, dpo_full, ppo_full, reward_full, sft_full, sft_lora

G001 = Fault(
    "G001",
    "A weight is NaN, and the log shows a loss all the same.",
    method="all",
    earliest="training",
    source="trl#6702, trl#6771, transformers#13619, transformers#13758, unsloth#6016",
)


@G001.planted(sft_full, dpo_full, ppo_full, told="MODEL025", at="model")
def one_weight_of_the_head_is_nan(world: World) -> None:
    def damage(at: Any) -> Any:
        at.model.get_output_embeddings().weight.data[0, 0] = float("nan")
        return at

    world.after(AtModel, damage)


@G001.planted(reward_full, told="MODEL025", at="model")
def one_weight_of_the_trunk_is_nan(world: World) -> None:
    def damage(at: Any) -> Any:
        at.model.model.layers[0].mlp.down_proj.weight.data[0, 0] = float("nan")
        return at

    world.after(AtModel, damage)


G008 = Fault(
    "G008",
    "Steps succeed, and no weight changes.",
    method="all",
    earliest="training",
    source="accelerate#2665, TrainCheck, transformers#25021",
)


@G008.planted(sft_full, sft_lora, told="MODEL009", at="model")
def the_optimizer_was_made_for_a_copy(world: World) -> None:
    def damage(at: Any) -> Any:
        from copy import deepcopy

        import torch

        copied = [weight for weight in deepcopy(at.model).parameters() if weight.requires_grad]
        at.trainer.optimizer = torch.optim.AdamW(copied, lr=1e-4)
        return at

    world.after(AtModel, damage)


def _later(id: str, what: str, method: Method, source: str) -> Unplanted:
    return Unplanted(
        Fault(id, what, method, "training", source),
        reason="told while training: not yet",
        why="needs a guard that looks on while training",
    )


G002 = _later(
    "G002", "Losses of evaluation that are not finite are left out of its mean.", "all", "transformers#13619"
)
G003 = _later(
    "G003", "A batch makes gradient and loss jump.", "all", "arXiv 2504.02507, arXiv 2502.11034, trl#488"
)
G004 = _later(
    "G004", "The model learns its rows by heart.", "sft", "axolotl's guide to stability, unsloth#3041"
)
G005 = _later("G005", "The model forgets what it knew.", "sft", "no clean public report")
G006 = _later("G006", "The policy says one thing only.", "ppo", "axolotl's guide to stability")
G007 = _later("G007", "The policy runs away from its reference.", "ppo", "MedicalGPT#374, trl#1857")
L012 = _later(
    "L012", "The policy finds length or repetition to please the reward.", "ppo", "OpenRLHF#236, UniRL#19"
)
L017 = _later("L017", "Ratios of the policy jump.", "ppo", "trl#101, trl#488, trl#1857, trl#5174")
