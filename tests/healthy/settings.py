"""Settings that are unusual and right: schedules, optimizers, precision, batches, packing, saving, intentions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.healthy.worlds import LORA, chats, healthy, hold_out, pairs_of_text, questions, sft, variants

from ftrun.checks.testing import World


def trained_with(folder: Path, seed: int, training: dict[str, Any]) -> World:
    """Plain answers, every weight trained, with a few settings."""
    return sft(folder, seed, pairs_of_text(seed), **training)


schedules = variants(
    trained_with,
    [
        ("constant", {"lr_scheduler_type": "constant", "warmup_steps": 0}),
        ("constant_with_warmup", {"lr_scheduler_type": "constant_with_warmup"}),
        ("cosine", {"lr_scheduler_type": "cosine"}),
        (
            "restarts",
            {
                "lr_scheduler_type": "cosine_with_restarts",
                "lr_scheduler_kwargs": {"num_cycles": 3},
                "num_train_epochs": 6,
            },
        ),
        ("polynomial", {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": 2.0}}),
        ("inverse_sqrt", {"lr_scheduler_type": "inverse_sqrt"}),
        (
            "stable_decay",
            {
                "lr_scheduler_type": "warmup_stable_decay",
                "lr_scheduler_kwargs": {"num_decay_steps": 4},
            },
        ),
        (
            "min_lr",
            {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1}},
        ),
        ("no_warmup", {"warmup_steps": 0}),
        ("warmup_in_steps", {"warmup_steps": 3}),
    ],
)

optimizers = variants(
    trained_with,
    [
        ("adafactor", {"optim": "adafactor", "learning_rate": 1e-3}),
        ("sgd", {"optim": "sgd", "learning_rate": 0.05}),
        ("adagrad", {"optim": "adagrad", "learning_rate": 1e-3}),
        ("fused_adamw", {"optim": "adamw_torch_fused"}),
        ("no_weight_decay", {"weight_decay": 0.0}),
        ("weight_decay", {"weight_decay": 0.1, "adam_beta2": 0.95}),
        ("tight_clipping", {"max_grad_norm": 0.1}),
        ("neftune", {"neftune_noise_alpha": 5}),
        ("dft", {"loss_type": "dft", "gradient_accumulation_steps": 2}),
        ("higher_rate", {"learning_rate": 1e-3}),
    ],
)

batches = variants(
    trained_with,
    [
        ("batch_of_one", {"per_device_train_batch_size": 1, "num_train_epochs": 1}),
        ("accumulation", {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}),
        ("whole_data_in_a_batch", {"per_device_train_batch_size": 32, "num_train_epochs": 8}),
        ("batch_beyond_the_data", {"per_device_train_batch_size": 64, "num_train_epochs": 8}),
        ("padded_to_eight", {"pad_to_multiple_of": 8}),
        ("checkpointing", {"gradient_checkpointing": True}),
        ("grouped_by_length", {"train_sampling_strategy": "group_by_length"}),
        ("last_batch_dropped", {"dataloader_drop_last": True, "per_device_train_batch_size": 5}),
        ("one_step", {"max_steps": 1, "warmup_steps": 0}),
        ("steps_beyond_the_data", {"max_steps": 40}),
        ("no_max_length", {"max_length": None}),
        ("padding_free", {"padding_free": True, "max_length": None}),
    ],
)


@healthy
def bf16_autocast(folder: Path, seed: int) -> World:
    return trained_with(folder, seed, {"bf16": True, "use_cpu": True, "gradient_accumulation_steps": 3})


@healthy
def bf16_weights_under_lora(folder: Path, seed: int) -> World:
    world = sft(folder, seed, pairs_of_text(seed), lora=LORA, gradient_accumulation_steps=2)
    world.recipe["model"]["dtype"] = "bfloat16"
    return world


@healthy
def eager_attention(folder: Path, seed: int) -> World:
    world = trained_with(folder, seed, {})
    world.recipe["model"]["attention"] = "eager"
    return world


def packed(folder: Path, seed: int, training: dict[str, Any]) -> World:
    """Plain text in packs."""
    rows = [{"text": f"{asked} {answer}"} for asked, answer in questions(seed, 48)]
    return sft(folder, seed, rows, packing=True, **{"max_length": 128, **training})


packs = variants(
    packed,
    [
        ("text", {}),
        ("split", {"packing_strategy": "bfd_split", "max_length": 48}),
        ("one_pack_a_step", {"per_device_train_batch_size": 1}),
        ("bf16", {"bf16": True, "use_cpu": True}),
        ("wide", {"max_length": 1024, "per_device_train_batch_size": 1}),
    ],
)


@healthy
def packed_chats(folder: Path, seed: int) -> World:
    """Training rows are packed, evaluation rows are not."""
    rows = chats(seed, 48, system="You know the house.", turns=2)
    return hold_out(sft(folder, seed, rows, packing=True, eval_packing=False))


@healthy
def packed_answers_under_lora(folder: Path, seed: int) -> World:
    return sft(folder, seed, pairs_of_text(seed, 48), lora=LORA, packing=True, max_length=256)


@healthy
def text_not_packed(folder: Path, seed: int) -> World:
    return sft(folder, seed, [{"text": f"{asked} {answer}"} for asked, answer in questions(seed)])


@healthy
def one_document_packed(folder: Path, seed: int) -> World:
    """A test of speed: one document in many copies."""
    text = " ".join(answer for _, answer in questions(seed, 4))
    return sft(folder, seed, [{"text": text}] * 24, packing=True, max_length=256)


@healthy
def ends_kept(folder: Path, seed: int) -> World:
    return trained_with(folder, seed, {"truncation_mode": "keep_end"})


@healthy
def curriculum(folder: Path, seed: int) -> World:
    """Short rows first, in the order of the file, on purpose."""
    world = trained_with(folder, seed, {"train_sampling_strategy": "sequential"})
    world.rows.sort(key=lambda row: len(row["prompt"] + row["completion"]))
    return world


@healthy
def order_of_the_file(folder: Path, seed: int) -> World:
    return trained_with(folder, seed, {"train_sampling_strategy": "sequential"})


@healthy
def shuffled_once(folder: Path, seed: int) -> World:
    world = trained_with(folder, seed, {"train_sampling_strategy": "sequential", "shuffle_dataset": True})
    world.rows.sort(key=lambda row: str(row["prompt"]))
    return world


saving = variants(
    trained_with,
    [
        ("saves_by_steps", {"save_strategy": "steps", "save_steps": 0.25, "save_total_limit": 2}),
        ("saves_the_model_alone", {"save_only_model": True}),
        ("saves_nothing_in_a_short_run", {"save_strategy": "no"}),
    ],
)


def evaluated(folder: Path, seed: int, training: dict[str, Any]) -> World:
    """Held-out rows, and ways to use them."""
    world = hold_out(trained_with(folder, seed, {}))
    world.recipe["training"] |= training
    return world


evaluations = variants(
    evaluated,
    [
        ("by_steps", {"eval_strategy": "steps", "eval_steps": 3}),
        ("at_start", {"eval_on_start": True}),
        ("best_at_end", {"load_best_model_at_end": True}),
        (
            "best_by_accuracy",
            {"load_best_model_at_end": True, "metric_for_best_model": "eval_mean_token_accuracy"},
        ),
        ("saves_the_best", {"save_strategy": "best", "metric_for_best_model": "loss"}),
        ("plateau", {"lr_scheduler_type": "reduce_lr_on_plateau", "warmup_steps": 0}),
        ("late", {"eval_delay": 1}),
    ],
)


@healthy
def asked_at_the_end(folder: Path, seed: int) -> World:
    """No evaluation loss, but answers to held-out questions."""
    world = hold_out(trained_with(folder, seed, {}))
    del world.recipe["training"]["eval_strategy"]
    world.recipe["evaluation"] = {"exact_match": 4, "max_new_tokens": 8}
    return world


@healthy
def evaluation_off_on_purpose(folder: Path, seed: int) -> World:
    """A base recipe evaluates, and this run says why it does not."""
    world = hold_out(trained_with(folder, seed, {}))
    world.recipe["training"]["eval_strategy"] = "no"
    world.recipe["preflight"] = {"ignore": {"TRAIN006": "a run on all data comes later; rows stay held out"}}
    return world


@healthy
def clipping_off_on_purpose(folder: Path, seed: int) -> World:
    world = trained_with(folder, seed, {"max_grad_norm": 0})
    world.recipe["preflight"] = {"ignore": {"TRAIN002": "gradients are watched by hand"}}
    return world


@healthy
def resumed(folder: Path, seed: int) -> World:
    """An earlier run of this recipe lies in the output folder, with a checkpoint to go on from."""
    world = trained_with(folder, seed, {})
    checkpoint = folder / "runs" / f"healthy-{seed}-1" / "checkpoints" / "checkpoint-8"
    checkpoint.mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text("{}", encoding="utf-8")
    return world


@healthy
def dropout_in_the_model(folder: Path, seed: int) -> World:
    from tests.healthy.models import save_tiny

    world = trained_with(folder, seed, {})
    world.recipe["model"]["path"] = str(
        save_tiny(folder / "dropout", seed, world.rows, attention_dropout=0.1)
    )
    return world
