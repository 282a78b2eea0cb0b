"""What a recipe leaves open, and which updates compute the same however their rows are divided."""

from __future__ import annotations

from typing import Any

from ftrun.checks.stages import AtData

BATCH, ACCUMULATION = "training.per_device_train_batch_size", "training.gradient_accumulation_steps"
CHECKPOINTING, TF32, ATTENTION = "training.gradient_checkpointing", "training.tf32", "model.attention"
SAMPLING = "training.train_sampling_strategy"

BY_PAIR = frozenset(
    {
        "sigmoid",
        "hinge",
        "ipo",
        "exo_pair",
        "nca_pair",
        "robust",
        "sppo_hard",
        "apo_zero",
        "apo_down",
        "discopop",
        "sigmoid_norm",
    }
)
"""DPO's losses that are a mean over pairs. `aot` compares the pairs of a micro-batch, `bco_pair` moves with them, and
`sft` is a mean over a micro-batch's tokens (`DPOTrainer._compute_loss` of TRL 1.16)."""


def is_open(at: AtData, key: str) -> bool:
    """Whether the recipe leaves a setting of `training:` open."""
    return key.removeprefix("training.") not in at.file.recipe.training


def may_divide(at: AtData) -> bool:
    """Whether an update may be made of smaller micro-batches: its rows weigh the same however they are divided, which
    only SFT's do, and the recipe leaves the accumulation open."""
    drops = at.recipe.training["dataloader_drop_last"]  # another micro-batch would leave out other rows
    return at.recipe.method == "sft" and is_open(at, ACCUMULATION) and not drops and not _balances(at)


def may_sort(at: AtData) -> bool:
    """Whether rows may change places within an update, and whether there may be padding to save."""
    training, method = at.recipe.training, at.recipe.method
    if method == "ppo" or training.get("padding_free") or training.get("packing") or _balances(at):
        return False
    losses = training["loss_type"] if method == "dpo" else []
    named = {losses} if isinstance(losses, str) else set(losses or ())
    return is_open(at, SAMPLING) and named <= BY_PAIR


def _balances(at: AtData) -> bool:
    """Whether the loss has a term for the balance of experts, which is taken over a micro-batch."""
    config: Any = at.model_config.get_text_config()
    return hasattr(config, "output_router_logits") and at.recipe.training.get("router_aux_loss_coef") != 0
