"""Faults of ours: what the model computes, and what the optimizer sees of it."""

from __future__ import annotations

from typing import Any

from tests.faults.plants import Fault

from ftrun.checks.stages import AtModel
from ftrun.checks.testing import (
    World,
    dpo_full,
    dpo_lora,
    ppo_full,
    ppo_lora,
    reward_full,
    reward_lora,
    sft_full,
    sft_lora,
)

OURS = "ours"

X110 = Fault("X110", "A setting of loading drops layers that the checkpoint has.", "all", "data", OURS)


@X110.planted(sft_full, dpo_full, told="MODEL028", at="data")
def one_layer_of_two(world: World) -> None:
    world.recipe["training"]["model_init_kwargs"] = {"num_hidden_layers": 1}


X111 = Fault("X111", "Tokens see those that come after them.", "all", "model", OURS)


@X111.planted(sft_full, dpo_full, ppo_full, told="MODEL026", at="model")
def attention_looks_ahead(world: World) -> None:
    def damage(at: Any) -> Any:
        import torch

        def open_up(module: Any, args: Any, kwargs: Any) -> Any:
            states = args[0] if args else kwargs["hidden_states"]
            rows, length = states.shape[:2]
            kwargs["attention_mask"] = torch.zeros(rows, 1, length, length, dtype=states.dtype)
            return args, kwargs

        models = [at.model, getattr(at.trainer, "ref_model", None), getattr(at.trainer, "reference", None)]
        for model in models:
            if model is not None:
                for layer in model.model.layers:
                    layer.self_attn.register_forward_pre_hook(open_up, with_kwargs=True)
        return at

    world.after(AtModel, damage)


X112 = Fault(
    "X112", "Adapters change the model before training: their start is drawn at random.", "all", "model", OURS
)


@X112.planted(sft_lora, reward_lora, told="MODEL027", at="model")
def adapters_begin_at_random(world: World) -> None:
    world.recipe["model"]["lora"]["init_lora_weights"] = False


@X112.planted(dpo_lora, ppo_lora, told=("DPO010", "PPO008"), at="model")
def adapters_of_a_policy_begin_at_random(world: World) -> None:
    world.recipe["model"]["lora"]["init_lora_weights"] = False


X113 = Fault(
    "X113", "The graph is cut between two layers, so that those below it learn nothing.", "all", "step", OURS
)


@X113.planted(sft_full, dpo_full, reward_full, told=("TRAIN017", "TRAIN018"), at="step")
def the_lower_layer_is_detached(world: World) -> None:
    def damage(at: Any) -> Any:
        at.model.model.layers[0].register_forward_hook(lambda module, inputs, output: output.detach())
        return at

    world.after(AtModel, damage)


X114 = Fault("X114", "The loss has the wrong sign.", "all", "step", OURS)


@X114.planted(sft_full, dpo_full, reward_full, told=("TRAIN043", "DPO014"), at="step")
def the_loss_is_negated(world: World) -> None:
    def damage(at: Any) -> Any:
        compute = at.trainer.compute_loss
        at.trainer.compute_loss = lambda *args, **kwargs: -compute(*args, **kwargs)
        return at

    world.after(AtModel, damage)


X115 = Fault("X115", "The loss is a sum over tokens where a mean belongs.", "all", "step", OURS)


@X115.planted(sft_full, dpo_full, reward_full, told=("TRAIN016", "TRAIN043", "DPO014"), at="step")
def the_loss_is_a_sum(world: World) -> None:
    def damage(at: Any) -> Any:
        compute = at.trainer.compute_loss
        at.trainer.compute_loss = lambda *args, **kwargs: 60 * compute(*args, **kwargs)
        return at

    world.after(AtModel, damage)


X116 = Fault(
    "X116",
    "The schedule was made for a tenth of the run, and the rate is 0 for the rest.",
    "all",
    "model",
    OURS,
)


@X116.planted(sft_full, dpo_full, told="TRAIN038", at="model")
def the_schedule_ends_early(world: World) -> None:
    def damage(at: Any) -> Any:
        from transformers import get_linear_schedule_with_warmup

        if at.trainer.optimizer is None:
            at.trainer.create_optimizer()
        at.trainer.lr_scheduler = get_linear_schedule_with_warmup(at.trainer.optimizer, 0, 2)
        return at

    world.after(AtModel, damage)


X117 = Fault("X117", "A flipped bit made one weight enormous.", "all", "model", OURS)


@X117.planted(sft_full, dpo_full, reward_full, told="MODEL025", at="model")
def one_weight_is_enormous(world: World) -> None:
    def damage(at: Any) -> Any:
        for model in (at.model, getattr(at.trainer, "ref_model", None)):
            if model is not None:
                model.model.layers[0].mlp.down_proj.weight.data[0, 0] = 1e30
        return at

    world.after(AtModel, damage)


X118 = Fault("X118", "One group of the optimizer has a rate of 0.", "all", "model", OURS)


@X118.planted(sft_full, told="TRAIN019", at="step")
def half_of_the_weights_rest(world: World) -> None:
    def damage(at: Any) -> Any:
        optimizer = at.trainer.optimizer or at.trainer.create_optimizer()
        group = optimizer.param_groups[0]
        group["lr"] = group["initial_lr"] = 0.0
        return at

    world.after(AtModel, damage)


X119 = Fault(
    "X119", "Weights are computed with another activation than they were trained with.", "all", "data", OURS
)


@X119.planted(sft_full, told="MODEL028", at="data")
def another_activation(world: World) -> None:
    world.recipe["training"]["model_init_kwargs"] = {"hidden_act": "relu"}


X120 = Fault("X120", "Dropout of the model stays on in evaluation.", "sft", "step", OURS)


@X120.planted(sft_full, told="TRAIN031", at="step")
def the_mlp_always_drops_out(world: World) -> None:
    def damage(at: Any) -> Any:
        import torch

        for layer in at.model.model.layers:
            layer.mlp.register_forward_hook(
                lambda module, inputs, output: torch.nn.functional.dropout(output, 0.1, training=True)
            )
        return at

    world.after(AtModel, damage)
