"""The checks of the model stage: silent on healthy models of many kinds, and exact about what is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, MixtralConfig, PretrainedConfig, Qwen2Config

from ftrun.checks.catalogue import load_checks
from ftrun.checks.check import Check
from ftrun.checks.finding import Finding
from ftrun.checks.model.embeddings_untied import embeddings_untied
from ftrun.checks.model.lora_targets_unmatched import lora_targets_unmatched
from ftrun.checks.model.model_does_not_load import model_does_not_load
from ftrun.checks.model.pad_token_unfit import pad_token_unfit
from ftrun.checks.model.schedule_stays_low import schedule_stays_low
from ftrun.checks.model.trainable_set_not_asked_for import trainable_set_not_asked_for
from ftrun.checks.model.untrained_token_rows import rows_of_the_template_are_zero, untrained_token_rows
from ftrun.checks.model.weights_missing_from_checkpoint import (
    layers_of_a_deeper_model,
    names_carry_a_prefix,
    weights_missing_from_checkpoint,
)
from ftrun.checks.model.weights_too_coarse import weights_too_coarse
from ftrun.checks.stages import AtModel, ModelFailed
from ftrun.checks.testing import World, sft_full, sft_lora
from ftrun.runner.preflight import climb
from ftrun.runner.tiny import TOKENIZER_FILES, locate

CHECKS = [one for one in load_checks() if one.stage in (AtModel, ModelFailed)]

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


def find(world: World, *checks: Check) -> tuple[Finding, ...]:
    """What the checks find, the gravest first; asserts that each of them was asked."""
    report = climb(world.write(), checks=checks, after=world.apply, upto=AtModel)
    assert not [result.check.id for result in report.results if result.verdict == "skipped"]
    return report.findings


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
        MixtralConfig(**SMALL, num_local_experts=4, num_experts_per_tok=1),
    ],
    ids=lambda config: config.model_type,
)
def test_silent_on_other_architectures(
    config: PretrainedConfig, lora: Mapping[str, Any] | None, tmp_path: Path
) -> None:
    world = sft_full(tmp_path)
    world.recipe["model"] = {"path": save_model(config, tmp_path / "model"), "lora": lora}
    assert find(world, *CHECKS) == ()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "changes",
    [
        {"use_dora": True},
        {"use_rslora": True, "rank_pattern": {"q_proj": 4}, "alpha_pattern": {"v_proj": 32}},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        {"trainable_token_indices": [2, 3]},
        {"bias": "all"},
        {"target_modules": ["q_proj"], "layers_to_transform": [0]},
        {"target_modules": r".*layers\.1\..*q_proj"},
        {"target_modules": ["model.layers.0.self_attn.q_proj"]},
        {"target_modules": ["embed_tokens", "v_proj"]},
        {"exclude_modules": ["gate_proj"], "init_lora_weights": "pissa"},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_silent_on_ways_of_lora(changes: Mapping[str, Any], tmp_path: Path) -> None:
    world = sft_lora(tmp_path)
    world.recipe["model"]["lora"] |= changes
    assert find(world, *CHECKS) == ()


def test_target_modules_that_exist_are_listed(tmp_path: Path) -> None:
    world = sft_lora(tmp_path)
    world.recipe["model"]["lora"]["target_modules"] = ["query_key_value"]
    (finding,) = find(world, model_does_not_load)
    assert finding.where.key == "model.lora.target_modules"
    assert "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, lm_head" in finding.evidence[0]


def test_misspelt_names_are_counted_and_corrected(tmp_path: Path) -> None:
    world = sft_lora(tmp_path)
    world.recipe["model"]["lora"]["target_modules"] = ["q_proj", "v_projj"]
    (finding,) = find(world, lora_targets_unmatched)
    assert "1 of 2 names" in finding.message
    assert finding.evidence == ("q_proj: 2 modules, v_projj: 0 modules", "v_projj: did you mean v_proj?")


@pytest.mark.parametrize(
    ("dtype", "rate", "severity"),
    [
        ("float32", 1e-6, None),
        ("bfloat16", 5e-4, None),
        ("bfloat16", 1e-4, "warning"),
        ("bfloat16", 1e-6, "error"),
        ("float16", 5e-4, "error"),
    ],
)
def test_coarse_weights_are_graded(dtype: str, rate: float, severity: str | None, tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    world.recipe["model"]["dtype"] = dtype
    world.recipe["training"]["learning_rate"] = rate
    assert [finding.severity for finding in find(world, weights_too_coarse)] == (
        [severity] if severity else []
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_adapters_over_a_coarse_base_are_fine(dtype: str, tmp_path: Path) -> None:
    world = sft_lora(tmp_path)
    world.recipe["model"]["dtype"] = dtype
    assert find(world, *CHECKS) == ()


def test_share_of_lost_updates_is_that_of_torch(tmp_path: Path) -> None:
    shares: list[tuple[float, float]] = []

    def measure(at: AtModel) -> AtModel:
        weight = at.model.lm_head.weight.detach()
        same = float(((weight - 1e-4) == weight).float().mean())
        from ftrun.checks.model.weights_too_coarse import _share_lost

        shares.append((_share_lost(weight, 1e-4), same))
        return at

    world = sft_full(tmp_path)
    world.recipe["model"]["dtype"] = "bfloat16"
    world.after(AtModel, measure)
    find(world, weights_too_coarse)
    ((estimate, truth),) = shares
    assert estimate == pytest.approx(truth, abs=0.02)


def test_tensors_without_a_place_are_a_warning_and_missing_ones_an_error(tmp_path: Path) -> None:
    deeper, prefixed = sft_full(tmp_path / "deeper"), sft_full(tmp_path / "prefixed")
    layers_of_a_deeper_model(deeper)
    names_carry_a_prefix(prefixed)
    assert [one.severity for one in find(deeper, weights_missing_from_checkpoint)] == ["warning"]
    assert [one.severity for one in find(prefixed, weights_missing_from_checkpoint)] == ["error", "warning"]


@pytest.mark.parametrize(
    "remedy",
    [
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        {"target_modules": ["embed_tokens"], "modules_to_save": ["lm_head"]},
    ],
    ids=["saved", "adapted"],
)
def test_rows_that_are_trained_may_begin_at_zero(remedy: Mapping[str, Any], tmp_path: Path) -> None:
    world = sft_lora(tmp_path)
    rows_of_the_template_are_zero(world)
    world.recipe["model"]["lora"] |= remedy
    assert find(world, untrained_token_rows) == ()


def test_padding_with_the_end_token_is_fine(tmp_path: Path) -> None:
    def pad_with_end(at: AtModel) -> AtModel:
        at.tokenizer.pad_token = at.tokenizer.eos_token
        return at

    world = sft_full(tmp_path)
    world.after(AtModel, pad_with_end)
    assert find(world, pad_token_unfit) == ()


def test_a_small_frozen_table_is_a_warning(tmp_path: Path) -> None:
    def freeze(at: AtModel) -> AtModel:
        at.model.model.norm.requires_grad_(False)
        return replace(at)

    world = sft_full(tmp_path)
    world.after(AtModel, freeze)
    (finding,) = find(world, trainable_set_not_asked_for)
    assert finding.severity == "warning"
    assert finding.evidence == ("model.norm.weight",)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("lora", "found"),
    [
        ({"target_modules": "all-linear"}, 0),
        ({"target_modules": ["q_proj"], "trainable_token_indices": [2, 3]}, 0),
        ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, 0),
        ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, 1),
        ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}, 1),
        ({"target_modules": ["q_proj", "embed_tokens"]}, 1),
    ],
)
def test_tied_embeddings(lora: Mapping[str, Any], found: int, tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    tied = Qwen2Config(**SMALL, tie_word_embeddings=True)
    world.recipe["model"] = {"path": save_model(tied, tmp_path / "model"), "lora": {"r": 8, **lora}}
    findings = find(world, embeddings_untied)
    assert len(findings) == found
    if findings:
        assert findings[0].patch is not None


@pytest.mark.parametrize(
    ("training", "found"),
    [
        ({"lr_scheduler_type": "cosine", "warmup_steps": 0.5}, 0),
        ({"lr_scheduler_type": "constant"}, 0),
        ({"lr_scheduler_type": "inverse_sqrt"}, 0),
        ({"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": 3}}, 0),
        ({"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 4}}, 0),
        ({"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": 8}}, 0),
        ({"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": 100}}, 1),
    ],
)
def test_schedules_are_judged_by_what_they_do(
    training: Mapping[str, Any], found: int, tmp_path: Path
) -> None:
    world = sft_full(tmp_path)
    world.recipe["training"] |= {"num_train_epochs": 4, **training}
    assert len(find(world, schedule_stays_low)) == found
