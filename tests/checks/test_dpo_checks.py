"""The checks of DPO: silent on what people train with, and exact about what they find."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    MixtralConfig,
    OPTConfig,
    PretrainedConfig,
    Qwen2Config,
)

from ftrun.checks.catalogue import load_checks
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtRecipe
from ftrun.checks.testing import World, dpo_chat, dpo_full, dpo_lora
from ftrun.runner.preflight import climb
from ftrun.runner.tiny import TOKENIZER_FILES, locate
from ftrun.schemas.settings import read_table

CHECKS = [one for one in load_checks() if one.group == "DPO" or one.id in ("TRAIN001", "MODEL007")]
LOSSES = read_table("dpo").fields["loss_type"]["items"]["enum"]
SMALL = {
    "vocab_size": 1024,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
LORA = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}


def find(
    world: World, training: Mapping[str, Any] | None = None, model: Mapping[str, Any] | None = None
) -> dict[str, Finding]:
    """The findings that matter, by id."""
    world.recipe["training"] |= training or {}
    world.recipe["model"] |= model or {}
    report = climb(world.write(), checks=CHECKS, after=world.apply)
    return {finding.id: finding for finding in report.findings if finding.severity != "info"}


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "sft"])
@pytest.mark.parametrize("settings", [{}, {"ld_alpha": 0.5, "f_divergence_type": "js_divergence"}])
def test_every_loss_is_healthy(loss: str, settings: dict[str, Any], tmp_path: Path) -> None:
    needs = {"exo_pair": {"label_smoothing": 1e-3}, "robust": {"label_smoothing": 0.1}}
    paired = ("sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", "sft")
    if settings and loss not in paired:
        settings = {"ld_alpha": 0.5}
    assert find(dpo_full(tmp_path), {"loss_type": loss, **needs.get(loss, {}), **settings}) == {}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("make", "training", "model"),
    [
        pytest.param(dpo_full, {"bf16": True, "use_cpu": True}, {}, id="bf16"),
        pytest.param(dpo_lora, {"bf16": True, "use_cpu": True}, {"dtype": "bfloat16"}, id="bf16-base"),
        pytest.param(dpo_full, {"gradient_checkpointing": True}, {}, id="checkpointing"),
        pytest.param(dpo_full, {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.2]}, {}, id="rpo"),
        pytest.param(dpo_full, {"loss_type": ["apo_zero", "ipo"], "loss_weights": [0.3, 1.0]}, {}, id="two"),
        pytest.param(dpo_full, {"use_weighting": True}, {}, id="wpo"),
        pytest.param(dpo_full, {"loss_type": "sigmoid_norm", "beta": 5.0}, {}, id="length-normalised"),
        pytest.param(dpo_full, {"sync_ref_model": True, "ref_model_sync_steps": 12}, {}, id="tr-dpo"),
        pytest.param(dpo_chat, {"precompute_ref_log_probs": True}, {}, id="precomputed"),
        pytest.param(
            dpo_lora,
            {"precompute_ref_log_probs": True, "precompute_ref_batch_size": 7, "ld_alpha": 0.3},
            {},
            id="precomputed-weighted",
        ),
        pytest.param(dpo_full, {}, {"reference": "tiny"}, id="reference-named"),
        pytest.param(dpo_chat, {"truncation_mode": "keep_end", "max_length": 48}, {}, id="keep-end"),
        pytest.param(dpo_lora, {}, {"lora": {**LORA, "use_dora": True}}, id="dora"),
        pytest.param(dpo_lora, {}, {"lora": {**LORA, "use_rslora": True}}, id="rslora"),
        pytest.param(dpo_lora, {}, {"lora": {**LORA, "init_lora_weights": "gaussian"}}, id="gaussian"),
        pytest.param(dpo_lora, {}, {"lora": {**LORA, "lora_dropout": 0.1}}, id="dropout-turned-off"),
        pytest.param(
            dpo_lora,
            {},
            {"lora": {**LORA, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}},
            id="module-saved",
        ),
    ],
)
def test_what_people_train_with_is_healthy(
    make: Any, training: dict[str, Any], model: dict[str, Any], tmp_path: Path
) -> None:
    assert find(make(tmp_path), training, model) == {}


def save_model(config: PretrainedConfig, folder: Path) -> str:
    """A model with random weights and the tokenizer of `tiny`."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copyfile(locate() / name, folder / name)
    return str(folder)


@pytest.mark.parametrize("make", [dpo_full, dpo_lora])
@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(vocab_size=1024, n_embd=32, n_layer=2, n_head=4, n_positions=512),
        Qwen2Config(**SMALL, tie_word_embeddings=True),
        MixtralConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2),
        Gemma2Config(**SMALL, head_dim=8),
    ],
    ids=lambda config: config.model_type,
)
def test_models_of_many_kinds_are_healthy(config: PretrainedConfig, make: Any, tmp_path: Path) -> None:
    assert find(make(tmp_path / "world"), {}, {"path": save_model(config, tmp_path / "model")}) == {}


def test_dropout_that_is_no_layer_is_told(tmp_path: Path) -> None:
    config = OPTConfig(
        vocab_size=1024, hidden_size=32, ffn_dim=64, num_hidden_layers=2, num_attention_heads=4, dropout=0.1
    )
    config.word_embed_proj_dim = 32
    path = save_model(config, tmp_path / "model")
    found = find(dpo_full(tmp_path / "world"), {}, {"path": path})
    assert found["DPO012"].fix == "Set training.model_init_kwargs to {dropout: 0.0}."
    assert find(dpo_full(tmp_path / "fixed"), {"model_init_kwargs": {"dropout": 0.0}}, {"path": path}) == {}


@pytest.mark.parametrize("start", ["olora", "pissa"])
@pytest.mark.filterwarnings("ignore")
def test_adapters_that_change_the_base(start: str, tmp_path: Path) -> None:
    found = find(dpo_lora(tmp_path), {}, {"lora": {**LORA, "init_lora_weights": start}})
    assert found["DPO010"].fix.startswith(f"Remove model.lora.init_lora_weights ({start})")
    assert found["DPO010"].evidence[0].startswith("chosen 1: -")


def test_dropout_of_the_config_is_named(tmp_path: Path) -> None:
    noisy = {"model_init_kwargs": {"attention_dropout": 0.1}}
    found = find(dpo_full(tmp_path), noisy)["DPO012"]
    assert found.fix == "Set training.model_init_kwargs to {attention_dropout: 0.0}."
    assert found.severity == "warning"
    assert find(dpo_full(tmp_path), noisy | {"disable_dropout": False})["DPO012"].severity == "warning"


@pytest.mark.parametrize(
    ("path", "lora", "rate", "severity"),
    [
        ("team/model-7b", None, 5e-7, None),
        ("team/model-7b", None, 5e-6, None),
        ("team/model-7b", None, 2e-5, "warning"),
        ("team/model-7b", None, 1e-3, "error"),
        ("team/model-7b", None, 1e-9, "error"),
        ("team/model-7b", LORA, 5e-5, None),
        ("team/model-7b", LORA, 2e-4, "warning"),
        ("tiny", None, 1e-3, None),
    ],
)
def test_rates_of_dpo(
    path: str, lora: dict[str, Any] | None, rate: float, severity: str | None, tmp_path: Path
) -> None:
    world = dpo_full(tmp_path)
    world.recipe["model"] = {"path": path, **({"lora": lora} if lora else {})}
    world.recipe["training"]["learning_rate"] = rate
    check = [one for one in CHECKS if one.id == "TRAIN001"]
    report = climb(world.write(), checks=check)
    assert [finding.severity for finding in report.findings] == ([severity] if severity else [])


def test_reference_that_is_not_there(tmp_path: Path) -> None:
    found = find(dpo_full(tmp_path), {}, {"reference": "./models/base"})["MODEL007"]
    assert "model.reference ./models/base" in found.message and found.where.key == "model.reference"


@pytest.mark.parametrize("beta", [-0.1, 0.0])
def test_beta_is_patched(beta: float, tmp_path: Path) -> None:
    patch = find(dpo_full(tmp_path), {"beta": beta})["DPO001"].patch
    assert patch is not None and (patch.key, patch.value) == ("training.beta", 0.1)


@pytest.mark.parametrize(
    ("losses", "weights"), [(["sigmoid"], [1.0, 2.0]), (["sigmoid", "sft"], []), ([], None)]
)
def test_weights_that_do_not_match_the_losses_break_no_check(
    losses: list[str], weights: list[float] | None, tmp_path: Path
) -> None:
    world = dpo_full(tmp_path)
    world.recipe["training"] |= {"loss_type": losses, "loss_weights": weights}
    report = climb(world.write(), checks=CHECKS, upto=AtRecipe)
    assert {finding.id for finding in report.findings} == {"DPO002"}
    assert not [one.reason for one in report.results if "itself fails" in (one.reason or "")]
