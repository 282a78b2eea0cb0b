"""Faults of ours, third round: settings of a recipe, one key each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.plants import Fault, Planting, StageName

from ftrun.checks.testing import (
    World,
    dpo_full,
    ppo_full,
    reward_full,
    sft_chat,
    sft_full,
    sft_lora,
)

OURS, NO_PPO = "ours", "TRL 1.16 has no PPO"
Make = Callable[[Path], World]


def _set(
    fault: Fault,
    name: str,
    *worlds: Make,
    told: str | tuple[str, ...],
    at: StageName | None = "recipe",
    trl: str | None = None,
    note: str = "",
    lora: dict[str, Any] | None = None,
    **training: Any,
) -> Planting:
    """A planting that sets keys of `training`, or of `model.lora`."""

    def plant(world: World) -> None:
        world.recipe["training"] |= training
        if lora is not None:
            world.recipe["model"]["lora"] |= lora

    plant.__name__ = name
    return fault.planted(*worlds, told=told, at=at, trl=trl, note=note)(plant)


X381 = Fault("X381", "AdamW's settings are those of nothing.", "all", "recipe", OURS)
BETA1 = _set(X381, "a_step_follows_a_thousand", sft_full, dpo_full, told="TRAIN008", adam_beta1=0.999)
BETA2 = _set(X381, "no_memory_of_the_scale", sft_full, told="TRAIN008", adam_beta2=0.0)
EPSILON = _set(X381, "epsilon_is_one", sft_full, reward_full, told="TRAIN008", adam_epsilon=1.0)
DECAY = _set(X381, "decay_is_a_thousand", sft_full, dpo_full, told="TRAIN008", weight_decay=1000.0)
CLIP = _set(X381, "clipped_to_nothing", sft_full, told="TRAIN002", max_grad_norm=1e-9)

X382 = Fault("X382", "The schedule does not fit the run.", "all", "model", OURS)
CYCLES = _set(
    X382,
    "it_starts_again_every_other_step",
    sft_full,
    told="TRAIN038",
    at="model",
    lr_scheduler_type="cosine_with_restarts",
    lr_scheduler_kwargs={"num_cycles": 7},
)
POWER = _set(
    X382,
    "it_is_over_at_once",
    sft_full,
    told="TRAIN038",
    at="model",
    lr_scheduler_type="polynomial",
    lr_scheduler_kwargs={"power": 30},
)
WARMUP = _set(
    X382, "it_warms_up_for_500_steps", sft_full, ppo_full, told="TRAIN004", at="data", warmup_steps=500
)

X383 = Fault("X383", "The best checkpoint is chosen by what says nothing of it.", "all", "recipe", OURS)


def _choose(name: str, make: Make, metric: str) -> Planting:
    return _set(
        X383,
        name,
        make,
        told="TRAIN036",
        load_best_model_at_end=True,
        metric_for_best_model=metric,
        greater_is_better=True,
    )


TOKENS = _choose("most_tokens_win", sft_chat, "eval_num_tokens")
RUNTIME = _choose("the_slowest_wins", sft_chat, "eval_runtime")
LOSS = _choose("the_highest_loss_wins", sft_chat, "eval_loss")

X384 = Fault("X384", "A coefficient has the wrong sign or size.", "reward", "recipe", OURS)
APART = _set(X384, "rewards_are_pushed_apart", reward_full, told="RM006", center_rewards_coefficient=-0.5)
CENTRED = _set(
    X384,
    "rewards_are_centred_alone",
    reward_full,
    told="RM006",
    center_rewards_coefficient=1000.0,
)

X385 = Fault(
    "X385", "The loss of DPO is held to its reference too little or too much.", "dpo", "recipe", OURS
)
LOOSE = _set(X385, "beta_is_a_millionth", dpo_full, told="DPO001", beta=1e-6)
TIGHT = _set(X385, "beta_is_a_hundred", dpo_full, told="DPO001", beta=100.0)
FOLLOWS = _set(
    X385,
    "the_reference_follows_at_once",
    dpo_full,
    told="DPO005",
    at="data",
    sync_ref_model=True,
    ref_model_sync_steps=1,
    ref_model_mixup_alpha=1.0,
)

X386 = Fault("X386", "Preferences hardly count in the loss of DPO.", "dpo", "recipe", OURS)
WEIGHT = _set(
    X386,
    "their_weight_is_zero",
    dpo_full,
    told="DPO004",
    at="recipe",
    loss_type=["sigmoid", "sft"],
    loss_weights=[0.0, 1.0],
)
SMOOTHED = _set(
    X386,
    "nearly_half_are_taken_for_wrong",
    dpo_full,
    told="TRAIN018",
    at="step",
    loss_type=["robust"],
    label_smoothing=0.49,
)

X387 = Fault("X387", "A setting of PPO is beyond what works.", "ppo", "recipe", OURS)


def _set_ppo(name: str, told: str, at: StageName | None = "recipe", **training: Any) -> Planting:
    return _set(X387, name, ppo_full, told=told, at=at, trl=NO_PPO, **training)


VALUES = _set_ppo("values_may_not_move", "PPO015", cliprange_value=1e-5)
PAID = _set_ppo("being_cut_off_is_paid", "PPO015", missing_eos_penalty=-1.0)
HORIZON = _set_ppo("the_coefficient_is_thrown_about", "PPO015", kl_target=6.0, kl_horizon=1)
RATIO = _set_ppo("ratios_are_not_clipped", "PPO015", cliprange=10.0)
COLD = _set_ppo("nothing_is_tried", "PPO015", temperature=0.01)
HOT = _set_ppo("answers_are_noise", "PPO015", temperature=20.0)
LAMBDA = _set_ppo("advantages_see_one_token", "PPO015", lam=0.0)
GAMMA = _set_ppo("rewards_are_halved_at_each_token", "PPO012", gamma=0.5)
KL = _set_ppo("the_policy_can_hardly_move", "PPO001", kl_coef=50.0)
SCORE = _set_ppo("every_score_is_clipped", "PPO009", at="step", score_clip=1e-4)
VALUE = _set_ppo("values_are_all_that_counts", "TRAIN018", at="step", vf_coef=1000.0)

X388 = Fault("X388", "A cut-off costs a hundred times what answers earn.", "ppo", "step", OURS)
SWAMPED = _set(
    X388,
    "the_penalty_swamps_the_score",
    ppo_full,
    told=(),
    at=None,
    trl=NO_PPO,
    note="An untrained policy ends no answer, so all are alike; to make it end first may be meant.",
    missing_eos_penalty=100.0,
)

X389 = Fault("X389", "A minibatch of PPO is one answer.", "ppo", "recipe", OURS)
ONE = _set(
    X389,
    "rollouts_have_one_answer",
    ppo_full,
    told=(),
    at=None,
    trl=NO_PPO,
    note="Smoke tests do the same, and with several processes it is enough.",
    per_device_train_batch_size=1,
    num_mini_batches=1,
)

X390 = Fault("X390", "A few rows are read two hundred times.", "all", "recipe", OURS)
EPOCHS = _set(
    X390,
    "two_hundred_epochs",
    sft_full,
    told="TRAIN047",
    at="data",
    num_train_epochs=200,
)

X391 = Fault("X391", "LoRA has the rate of a whole model.", "all", "recipe", OURS)
SLOW = _set(
    X391,
    "a_millionth",
    sft_lora,
    told=(),
    at=None,
    note="Small models are judged by wider ranges, and slow is not wrong.",
    learning_rate=1e-6,
)

X392 = Fault(
    "X392", "Adapters are dropped out, silent, or larger than what they change.", "all", "model", OURS
)
DROPPED = _set(
    X392, "they_are_dropped_out", sft_lora, told="MODEL031", at="model", lora={"lora_dropout": 0.95}
)
SILENT = _set(
    X392, "they_are_multiplied_by_zero", sft_lora, told="MODEL010", at="model", lora={"lora_alpha": 0}
)
LARGE = _set(
    X392,
    "their_rank_is_beyond_the_weights",
    sft_lora,
    told="MODEL032",
    at="model",
    lora={"r": 512, "lora_alpha": 1024},
)
