"""The checks of the step stage: silent on healthy steps of many kinds, and exact about what fails."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    MambaConfig,
    MixtralConfig,
    PretrainedConfig,
    Qwen2Config,
)

from ftrun.checks.catalogue import load_checks
from ftrun.checks.check import Check
from ftrun.checks.report import Report
from ftrun.checks.stages import AtModel, AtStep
from ftrun.checks.step import (
    backward_pass_fails,
    batch_cannot_be_made,
    forward_pass_fails,
    optimizer_step_fails,
)
from ftrun.checks.step.batch_unlike_rows import batch_unlike_rows
from ftrun.checks.step.evaluation_is_random import evaluation_is_random
from ftrun.checks.step.gradient_missing import gradient_missing
from ftrun.checks.step.gradient_zero_or_huge import gradient_zero_or_huge
from ftrun.checks.step.loss_implausible_at_start import loss_implausible_at_start
from ftrun.checks.step.saved_model_differs import saved_model_differs
from ftrun.checks.step.step_undoes_the_model import step_undoes_the_model
from ftrun.checks.step.update_vanishes import update_vanishes
from ftrun.checks.step.wrong_parameters_change import wrong_parameters_change
from ftrun.checks.testing import World, sft_full, sft_lora, sft_packed
from ftrun.runner.preflight import climb
from ftrun.runner.tiny import TOKENIZER_FILES, locate

CHECKS = [one for one in load_checks() if one.stage is AtStep]

ALL_LINEAR = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}
SMALL = {
    "vocab_size": 1024,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}


def look(world: World, *checks: Check) -> Report:
    """The report of these checks; asserts that each of them was asked."""
    report = climb(world.write(), checks=checks, after=world.apply)
    assert not [result.check.id for result in report.results if result.verdict == "skipped"]
    return report


def save_model(config: PretrainedConfig, folder: Path) -> str:
    """A model with random weights and the tokenizer of `tiny`."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copyfile(locate() / name, folder / name)
    return str(folder)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("lora", [None, ALL_LINEAR], ids=["full", "lora"])
@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(vocab_size=1024, n_embd=32, n_layer=2, n_head=4),
        Qwen2Config(**SMALL, tie_word_embeddings=True),
        MixtralConfig(**SMALL, num_local_experts=16, num_experts_per_tok=1),
    ],
    ids=lambda config: config.model_type,
)
def test_silent_on_other_architectures(
    config: PretrainedConfig, lora: Mapping[str, Any] | None, tmp_path: Path
) -> None:
    world = sft_full(tmp_path)
    world.recipe["model"] = {"path": save_model(config, tmp_path / "model"), "lora": lora}
    (finding,) = look(world, *CHECKS).findings
    assert (finding.id, finding.severity) == ("TRAIN016", "info")  # that these weights are random is told


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "training",
    [
        {"optim": "sgd", "learning_rate": 0.01},
        {"optim": "adafactor", "learning_rate": 1e-3},
        {"loss_type": "dft", "weight_decay": 0.1},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
        {"bf16": True, "use_cpu": True, "max_grad_norm": 0.0},
        {"learning_rate": 1e-6, "warmup_steps": 0.5},
    ],
    ids=lambda training: "-".join(training),
)
@pytest.mark.parametrize(
    "lora", [None, {**ALL_LINEAR, "use_dora": True, "bias": "all"}], ids=["full", "dora"]
)
def test_silent_on_ways_of_training(
    training: Mapping[str, Any], lora: Mapping[str, Any] | None, tmp_path: Path
) -> None:
    world = sft_full(tmp_path)
    world.recipe["training"] |= training
    world.recipe["model"]["lora"] = lora
    assert look(world, *CHECKS).findings == ()


@pytest.mark.parametrize(
    "changes",
    [{"trainable_token_indices": [1000, 1001]}, {"init_lora_weights": "olora"}, {"lora_dropout": 0.5}],
)
def test_silent_on_ways_of_lora(changes: Mapping[str, Any], tmp_path: Path) -> None:
    world = sft_lora(tmp_path)
    world.recipe["model"]["lora"] |= changes
    assert look(world, *CHECKS).findings == ()


def test_a_packed_piece_without_an_answer_is_not_judged(tmp_path: Path) -> None:
    world = sft_packed(tmp_path)
    world.recipe["training"] |= {
        "packing_strategy": "wrapped",
        "max_length": 64,
        "per_device_train_batch_size": 1,
        "shuffle_dataset": False,
        "train_sampling_strategy": "sequential",
    }
    world.rows = [{"prompt": world.rows[0]["text"] * 8, "completion": "It is red."}] * 8
    report = look(world, loss_implausible_at_start, gradient_zero_or_huge, wrong_parameters_change)
    assert [result.verdict for result in report.results] == ["not_applicable"] * 3


PHASES = (
    batch_cannot_be_made.batch_cannot_be_made,
    forward_pass_fails.forward_pass_fails,
    backward_pass_fails.backward_pass_fails,
    optimizer_step_fails.optimizer_step_fails,
)


@pytest.mark.parametrize("first", range(4), ids=["batch", "forward", "backward", "update"])
def test_only_the_first_phase_that_fails_is_named(first: int, tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    PHASES[first].faults[0](world)
    report = look(world, *CHECKS)
    verdicts = {result.check.id: result.verdict for result in report.results}
    ids = [one.id for one in PHASES]
    assert [finding.id for finding in report.findings] == [ids[first]]
    assert [verdicts[id] for id in ids[:first]] == ["passed"] * first
    assert [verdicts[id] for id in ids[first + 1 :]] == ["not_applicable"] * (3 - first)


def test_lack_of_memory_is_told_with_what_to_do(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    forward_pass_fails.memory_does_not_hold_the_batch(world)
    (finding,) = look(world, forward_pass_fails.forward_pass_fails).findings
    assert "gradient_checkpointing" in finding.fix
    assert finding.where.key == "training.per_device_train_batch_size"
    assert any(line.startswith("input_ids: (4, ") for line in finding.evidence)


@pytest.mark.parametrize(("scale", "severity"), [(1.0, None), (3.0, "warning"), (40.0, "error")])
def test_loss_is_measured_against_guessing(scale: float, severity: str | None, tmp_path: Path) -> None:
    def damage(at: AtModel) -> AtModel:
        at.model.get_output_embeddings().weight.data *= scale
        return at

    world = sft_full(tmp_path)
    world.after(AtModel, damage)
    findings = look(world, loss_implausible_at_start).findings
    assert [finding.severity for finding in findings] == ([severity] if severity else [])


@pytest.mark.parametrize(
    ("cut", "severity", "first"),
    [
        ("layers.0.mlp", "warning", "model.layers.*.post_attention_layernorm.weight"),
        ("norm", "error", "model.layers.*.self_attn.q_proj.weight (2 times)"),
    ],
)
def test_missing_gradients_are_named(cut: str, severity: str, first: str, tmp_path: Path) -> None:
    def damage(at: AtModel) -> AtModel:
        module = at.model.model.get_submodule(cut)
        module.register_forward_pre_hook(lambda module, inputs: (inputs[0].detach(),))
        return at

    world = sft_full(tmp_path)
    world.after(AtModel, damage)
    (finding,) = look(world, gradient_missing).findings
    assert finding.severity == severity
    assert finding.evidence[0] == first


def test_one_tensor_that_the_optimizer_lacks_is_named(tmp_path: Path) -> None:
    def damage(at: AtModel) -> AtModel:
        norm = at.model.model.norm.weight
        for group in at.trainer.optimizer.param_groups:
            group["params"] = [p for p in group["params"] if p is not norm]
        return at

    world = sft_full(tmp_path)
    world.after(AtModel, damage)
    (finding,) = look(world, wrong_parameters_change).findings
    assert finding.evidence == ("model.norm.weight",)


@pytest.mark.parametrize(
    ("dtype", "rate", "found"), [("float32", 1e-6, 0), ("bfloat16", 5e-4, 0), ("bfloat16", 1e-6, 1)]
)
def test_vanishing_updates_are_measured(dtype: str, rate: float, found: int, tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    world.recipe["model"]["dtype"] = dtype
    world.recipe["training"] |= {"learning_rate": rate, "optim": "rmsprop"}
    assert len(look(world, update_vanishes).findings) == found


def test_overflow_under_a_loss_scaler_is_a_warning(tmp_path: Path) -> None:
    def damage(at: AtModel) -> AtModel:
        at.trainer.accelerator.scaler = torch.amp.GradScaler("cpu")
        at.model.model.norm.weight.register_hook(lambda gradient: gradient * float("inf"))
        return at

    world = sft_full(tmp_path)
    world.after(AtModel, damage)
    report = look(world, *CHECKS)
    assert [(one.id, one.severity) for one in report.findings] == [(gradient_zero_or_huge.id, "warning")]


STATE_SPACE = MambaConfig(vocab_size=1024, hidden_size=32, num_hidden_layers=2, state_size=4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("config", "severity"),
    [
        (GPT2Config(vocab_size=1024, n_embd=32, n_layer=2, n_head=4), None),
        (Qwen2Config(**SMALL, tie_word_embeddings=True), None),
        (MixtralConfig(**SMALL, num_local_experts=4, num_experts_per_tok=1), None),
        (STATE_SPACE, "error"),
    ],
    ids=["gpt2", "qwen2", "mixtral", "mamba"],
)
def test_packing_is_told_where_the_model_remembers_across_documents(
    config: PretrainedConfig, severity: str | None, tmp_path: Path
) -> None:
    world = sft_full(tmp_path)
    world.recipe["model"] = {"path": save_model(config, tmp_path / "model")}
    world.recipe["training"]["packing"] = True
    findings = [one for one in look(world, *CHECKS).findings if one.severity != "info"]
    assert [(one.id, one.severity) for one in findings] == ([("TRAIN034", severity)] if severity else [])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "lora",
    [
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        {"trainable_token_indices": [2, 3]},
        {"init_lora_weights": "pissa"},
        {"target_modules": ["embed_tokens", "v_proj"]},
        {"use_dora": True, "bias": "all"},
    ],
    ids=lambda lora: "-".join(lora),
)
@pytest.mark.parametrize("training", [{}, {"bf16": True, "use_cpu": True}], ids=["float32", "bfloat16"])
def test_every_way_of_lora_is_saved_whole(
    lora: Mapping[str, Any], training: Mapping[str, Any], tmp_path: Path
) -> None:
    world = sft_lora(tmp_path)
    world.recipe["model"]["lora"] |= lora
    world.recipe["training"] |= training
    (result,) = look(world, saved_model_differs).results
    assert result.verdict == "passed"


def test_a_collator_that_masks_is_named_before_its_consequences(tmp_path: Path) -> None:
    def damage(at: AtModel) -> AtModel:
        collate = at.trainer.data_collator

        def mask(rows: object) -> Any:
            batch = collate(rows)
            batch["labels"].fill_(-100)
            return batch

        at.trainer.data_collator = mask
        return at

    world = sft_full(tmp_path)
    world.after(AtModel, damage)
    first = look(world, *CHECKS).findings[0]
    assert first.id == "DATA028" and "the data collator makes labels of its own" in first.message


@pytest.mark.parametrize(
    "training",
    [
        {"packing": True, "max_length": 128},
        {"packing": True, "max_length": 64, "packing_strategy": "bfd_split"},
        {"max_length": 64, "truncation_mode": "keep_end", "pad_to_multiple_of": 16},
    ],
    ids=["packed", "split", "cut"],
)
def test_batches_of_healthy_rows_are_their_rows(training: Mapping[str, Any], tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    world.recipe["training"] |= training
    world.rows[3] = world.rows[2]
    assert look(world, batch_unlike_rows).findings == ()


def test_random_evaluation_is_told_once(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    evaluation_is_random.faults[0](world)
    assert [finding.id for finding in look(world, *CHECKS).findings] == ["TRAIN031"]


def test_experiments_that_were_not_made_say_why(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    PHASES[1].faults[0](world)
    ids = ("TRAIN031", "TRAIN032", "TRAIN034", "MODEL023")
    reasons = {result.check.id: result.reason for result in look(world, *CHECKS).results}
    assert {reasons[id] for id in ids} == {"the forward pass failed"}


@pytest.mark.parametrize(
    ("training", "severity"),
    [
        ({"learning_rate": 1e-2}, None),
        ({"learning_rate": 0.1, "optim": "adafactor", "warmup_steps": 0}, None),
        ({"learning_rate": 1.0}, "warning"),
        ({"learning_rate": 1.0, "warmup_steps": 0}, "error"),
    ],
    ids=["high", "adafactor", "absurd-with-warmup", "absurd"],
)
def test_a_step_is_judged_by_what_it_does(
    training: Mapping[str, Any], severity: str | None, tmp_path: Path
) -> None:
    world = sft_full(tmp_path)
    world.recipe["training"] |= training
    findings = look(world, step_undoes_the_model).findings
    assert [finding.severity for finding in findings] == ([severity] if severity else [])
