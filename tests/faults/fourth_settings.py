"""Faults of a fourth round, from reports and blind trials: settings, models and rewards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.materials import copy_model, edit_json
from tests.faults.plants import Fault, Planting, StageName
from tests.faults.third_model_files import NO_ADAPTERS, adapt

from ftrun.checks.stages import AtModel
from ftrun.checks.testing import World, dpo_full, ppo_full, reward_full, sft_full, sft_lora

OURS, NO_PPO = "ours", "TRL 1.16 has no PPO"


def _train(
    fault: Fault,
    name: str,
    *worlds: Callable[[Path], World],
    told: str,
    at: StageName,
    trl: str | None = None,
    **training: Any,
) -> Planting:
    """A planting that sets keys of `training`."""

    def plant(world: World) -> None:
        world.recipe["training"] |= training

    plant.__name__ = name
    return fault.planted(*worlds, told=told, at=at, trl=trl)(plant)


X641 = Fault("X641", "The schedule ends at its peak, or climbs beyond it.", "all", "model", OURS)
COSINE = _train(
    X641,
    "a_cosine_of_whole_cycles",
    sft_full,
    dpo_full,
    told="TRAIN038",
    at="model",
    num_train_epochs=8,
    lr_scheduler_type="cosine",
    lr_scheduler_kwargs={"num_cycles": 2},
)
LEAST = _train(
    X641,
    "the_least_rate_is_twice_the_rate",
    sft_full,
    told="TRAIN038",
    at="model",
    num_train_epochs=8,
    lr_scheduler_type="cosine_with_min_lr",
    lr_scheduler_kwargs={"min_lr_rate": 2.0},
)

X642 = Fault("X642", "The run is one optimizer step.", "all", "data", OURS)
ONE = _train(
    X642,
    "a_hundredth_of_an_epoch",
    sft_full,
    dpo_full,
    reward_full,
    told="TRAIN046",
    at="data",
    num_train_epochs=0.01,
)
DROPPED = _train(
    X642,
    "the_only_batch_is_dropped",
    sft_full,
    told="TRAIN046",
    at="data",
    per_device_train_batch_size=512,
    dataloader_drop_last=True,
    num_train_epochs=1,
)

X643 = Fault("X643", "Rows are seen far more, or far less often than is meant.", "all", "data", OURS)
MANY = _train(X643, "a_hundred_epochs", sft_full, told="TRAIN047", at="data", num_train_epochs=100)
PAIRS = _train(
    X643, "thirty_epochs_of_pairs", dpo_full, reward_full, told="TRAIN047", at="data", num_train_epochs=30
)
LIMIT = _train(
    X643,
    "the_limit_of_a_trial_is_left_in",
    sft_full,
    told="TRAIN047",
    at="data",
    num_train_epochs=50,
    max_steps=12,
)

X644 = Fault("X644", "Arguments of the optimizer are not read.", "all", "model", OURS)
UNREAD = _train(X644, "adamw_reads_none", sft_full, told="TRAIN044", at="model", optim_args="bettas=0.9")
TARGETS = _train(
    X644, "adamw_has_no_targets", sft_full, told="TRAIN044", at="model", optim_target_modules=["q_proj"]
)

X645 = Fault("X645", "The scale of adapters is out of all proportion.", "all", "model", OURS)


@X645.planted(sft_lora, told="MODEL010", at="model")
def alpha_was_meant_for_another_rank(world: World) -> None:
    world.recipe["model"]["lora"] |= {"r": 8, "lora_alpha": 2048}


@X645.planted(sft_lora, told="MODEL010", at="model")
def rslora_with_the_old_alpha(world: World) -> None:
    world.recipe["model"]["lora"] |= {"r": 64, "lora_alpha": 512, "use_rslora": True}


X646 = Fault("X646", "Adapters are asked for on a layer that is not there.", "all", "model", OURS)


@X646.planted(sft_lora, told="MODEL004", at="model")
def layers_of_a_deeper_model(world: World) -> None:
    world.recipe["model"]["lora"] = {"r": 8, "target_modules": ["q_proj"], "layers_to_transform": [0, 99]}


X647 = Fault(
    "X647", "Weights of a layer were not gathered before they were saved.", "all", "model", "DeepSpeed#2413"
)


@X647.planted(sft_full, dpo_full, told="MODEL025", at="model")
def a_layer_is_zero(world: World) -> None:
    copy_model(world, weights=_zero_a_layer)


def _zero_a_layer(model: Any) -> None:
    for p in model.model.layers[1].parameters():
        if p.dim() > 1:
            p.data.zero_()


X648 = Fault("X648", "One matrix was merged at another scale.", "all", "model", OURS)


@X648.planted(sft_full, told="MODEL025", at="model")
def a_matrix_is_a_thousand_times_too_large(world: World) -> None:
    copy_model(world, weights=lambda model: model.model.layers[0].mlp.down_proj.weight.data.mul_(1000))


X649 = Fault("X649", "An adapter's weights have names that no module has.", "all", "model", OURS)


@X649.planted(sft_full, told="MODEL001", at="model", trl=NO_ADAPTERS)
def names_have_a_prefix_more(world: World) -> None:
    adapt(
        world,
        lambda held: {
            name.replace("base_model.model.", "base_model.model.model.", 1): one for name, one in held.items()
        },
    )


@X649.planted(sft_full, told="MODEL001", at="model", trl=NO_ADAPTERS)
def halves_of_adapters_are_missing(world: World) -> None:
    adapt(world, lambda held: {name: one for name, one in held.items() if "lora_B" not in name})


X650 = Fault("X650", "Attention drops half of what it computes, by the model's config.", "all", "model", OURS)


@X650.planted(sft_full, told="MODEL031", at="model")
def the_config_drops_half(world: World) -> None:
    edit_json(copy_model(world) / "config.json", lambda config: config.update(attention_dropout=0.5))


X651 = Fault("X651", "The reference of DPO knows nothing.", "dpo", "model", OURS)


@X651.planted(dpo_full, told="DPO015", at="model")
def the_reference_is_as_it_was_drawn(world: World) -> None:
    def learn(at: AtModel) -> AtModel:
        import torch

        optimizer = torch.optim.AdamW(at.model.parameters(), lr=5e-3)
        for pair in list(range(8)) * 8:
            ids = torch.tensor([at.train[2 * pair].ids.tolist()])
            at.model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return at

    world.recipe["model"]["reference"] = world.recipe["model"]["path"]
    world.after(AtModel, learn)


X652 = Fault("X652", "Margins are points of a hundred.", "reward", "data", OURS)


@X652.planted(reward_full, told="RM004", at="data")
def every_margin_is_ninety(world: World) -> None:
    for row in world.rows:
        row["margin"] = 90.0


X653 = Fault("X653", "No answer can earn what the reward pays.", "ppo", "recipe", OURS)


@X653.planted(ppo_full, told="PPO014", at="recipe", trl=NO_PPO)
def no_length_is_right(world: World) -> None:
    world.recipe["reward"]["penalties"] = {
        "too_short": {"words": 8, "penalty": 1.0},
        "too_long": {"words": 4, "penalty": 1.0},
    }


@X653.planted(ppo_full, told="PPO014", at="recipe", trl=NO_PPO)
def no_response_can_end(world: World) -> None:
    training = world.recipe["training"]
    training["min_response_length"] = training["response_length"]


@X653.planted(ppo_full, told="PPO011", at="recipe", trl=NO_PPO)
def nothing_says_what_is_wanted(world: World) -> None:
    world.recipe["reward"]["functions"] = []


X654 = Fault("X654", "A reward function ends the program.", "ppo", "step", OURS)


@X654.planted(ppo_full, told="TRAIN013", at="step", trl=NO_PPO)
def it_calls_exit(world: World) -> None:
    _pay(world, "import sys\n\n\ndef share_of_letters(completions):\n    sys.exit(0)\n")


@X654.planted(ppo_full, told="MODEL001", at="model", trl=NO_PPO)
def its_file_calls_exit(world: World) -> None:
    _pay(world, "import sys\n\nsys.exit(0)\n\n\ndef share_of_letters(completions):\n    return [0.0]\n")


X655 = Fault("X655", "Scores are in the millions.", "ppo", "step", OURS)


@X655.planted(ppo_full, told="PPO009", at="step", trl=NO_PPO)
def points_are_not_scaled(world: World) -> None:
    _pay(
        world,
        "def share_of_letters(completions):\n    return [1e6 * sum(map(ord, text)) for text in completions]\n",
    )


def _pay(world: World, code: str) -> None:
    (world.folder / "rewards.py").write_text(code, encoding="utf-8")
    world.recipe["reward"]["penalties"] = None
