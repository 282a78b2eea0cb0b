"""What the recipe divides among processes cannot be divided so.

Symptom: settings of FSDP or DeepSpeed without an effect, a checkpoint without weights, or an error deep inside torch
once the model is loaded.
Cause: `training.fsdp_config` or `training.deepspeed` is set and `launch.strategy` is another; or the strategy is one
that this method, quantised weights or plain model folders do not go with.
Fix: set `launch.strategy` to what is configured, or take a strategy that goes with the rest: `ddp` goes with all.
Source: transformers writes a model folder under FSDP for `FULL_STATE_DICT` alone (`Trainer.save_model`), and has
deprecated version 1 of FSDP; DeepSpeed has an engine for one model, and PPO trains two in one step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.stages import AtRecipe

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("REC016", title="the strategy goes with the method and the settings", severity="error")
def strategy_unfit(at: AtRecipe) -> Iterator[Finding]:
    """Tell settings of another strategy, and what the strategy does not go with."""
    training, strategy = at.recipe.training, at.recipe.launch.strategy
    for key, owner in (("fsdp_config", "fsdp"), ("deepspeed", "deepspeed")):
        if training.get(key) and strategy != owner:
            yield Finding(
                f"training.{key} is set and launch.strategy is {strategy}: it has no effect.",
                f"Set launch.strategy to {owner}, or remove training.{key}.",
                at.where(f"training.{key}"),
                patch=Patch("launch.strategy", owner),
            )
    if strategy != "ddp":
        yield from _unfit(at)
    config = training.get("fsdp_config") or {}
    for key, wanted in (("version", 2), ("state_dict_type", "FULL_STATE_DICT")):
        written = config.get(key, config.get(f"fsdp_{key}", wanted))
        if strategy == "fsdp" and written != wanted:
            yield Finding(
                f"training.fsdp_config.{key} is {written}, and ftrun writes plain model folders with FSDP2.",
                f"Remove {key}, which is {wanted} then.",
                at.where("training.fsdp_config"),
            )


def _unfit(at: AtRecipe) -> Iterator[Finding]:
    strategy, where = at.recipe.launch.strategy, at.where("launch.strategy")
    if at.recipe.method == "ppo" and strategy == "deepspeed":
        yield Finding(
            "launch.strategy is deepspeed, and PPO trains a policy and a value model, of which it divides one.",
            "Set launch.strategy to fsdp, which divides both.",
            where,
            patch=Patch("launch.strategy", "fsdp"),
        )
    if at.recipe.model.quantization is not None:
        yield Finding(
            f"launch.strategy is {strategy}, and model.quantization packs weights in a way that cannot be divided.",
            "Remove model.quantization, or set launch.strategy to ddp.",
            where,
        )


@strategy_unfit.fault
def options_without_their_strategy(world: World) -> None:
    """Copied from a script."""
    world.recipe["training"]["fsdp_config"] = {"reshard_after_forward": False}


@strategy_unfit.fault
def a_quantised_base_is_divided(world: World) -> None:
    """QLoRA with FSDP."""
    world.recipe["launch"] = {"processes": 2, "strategy": "fsdp"}
    world.recipe["model"] |= {"quantization": "4bit", "lora": {"r": 8, "target_modules": "all-linear"}}


@strategy_unfit.fault
def checkpoints_in_parts(world: World) -> None:
    """The default of accelerate's questionnaire."""
    world.recipe["launch"] = {"processes": 2, "strategy": "fsdp"}
    world.recipe["training"]["fsdp_config"] = {"state_dict_type": "SHARDED_STATE_DICT"}
