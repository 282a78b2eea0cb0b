"""The dry step tells what a step does, and leaves no trace of itself."""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ftrun.checks.data.data_cannot_be_prepared import data_cannot_be_prepared
from ftrun.checks.model.model_does_not_load import model_does_not_load
from ftrun.checks.stages import AtModel
from ftrun.checks.testing import World, sft_chat, sft_full, sft_lora, sft_packed
from ftrun.runner.preflight import ascend
from ftrun.runner.step import _model_restored, take_step

Make = Callable[[Path], World]

ACCUMULATED = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
CHECKPOINTED = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}


def build(
    make: Make, folder: Path, training: Mapping[str, Any], lora: Mapping[str, Any] | None = None
) -> AtModel:
    world = make(folder)
    world.recipe["training"] |= {"logging_steps": 1, "save_strategy": "no", "max_steps": 6, **training}
    if lora is not None:
        world.recipe["model"]["lora"] |= lora
    path, tellers = world.write(), (data_cannot_be_prepared, model_does_not_load)
    ascent = ascend(path, checks=tellers, folder=lambda file: folder / "run", needed=AtModel)
    assert isinstance(ascent.at, AtModel), ascent.report.findings
    return ascent.at


def train(at: AtModel) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    """What was logged, without the times, and the weights at the end."""
    at.trainer.train()
    timed = ("runtime", "per_second")
    logs = [
        {key: value for key, value in entry.items() if not key.endswith(timed)}
        for entry in at.trainer.state.log_history
    ]
    return logs, copy_weights(at)


def copy_weights(at: AtModel) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in at.model.state_dict(keep_vars=True).items()}


def assert_equal(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize(
    ("make", "training", "lora"),
    [
        pytest.param(sft_full, {"weight_decay": 0.1, "neftune_noise_alpha": 5.0}, None, id="full"),
        pytest.param(sft_lora, ACCUMULATED, {"lora_dropout": 0.2}, id="lora-dropout-accumulation"),
        pytest.param(
            sft_lora, CHECKPOINTED, {"lora_dropout": 0.2, "use_dora": True}, id="dora-checkpointing"
        ),
        pytest.param(
            sft_chat, {"eval_strategy": "steps", "eval_steps": 3, **CHECKPOINTED}, None, id="chat-eval"
        ),
        pytest.param(sft_packed, ACCUMULATED, None, id="packed-accumulation"),
        pytest.param(sft_full, {"optim": "adagrad", "loss_type": "dft"}, None, id="adagrad"),
        pytest.param(
            sft_full, {"bf16": True, "use_cpu": True, "dataloader_num_workers": 1}, None, id="bf16-workers"
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_training_is_the_same_after_a_step(
    make: Make, training: Mapping[str, Any], lora: Mapping[str, Any] | None, tmp_path: Path
) -> None:
    logs, weights = train(build(make, tmp_path / "without", training, lora))
    at = build(make, tmp_path / "with", training, lora)
    step = take_step(at).step
    assert step.error is None
    assert step.changed
    logs_after, weights_after = train(at)
    assert logs_after == logs
    assert_equal(weights_after, weights)


def random_states() -> tuple[Any, ...]:
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().numpy().tobytes()


def traces(at: AtModel) -> dict[str, Any]:
    """All that a step might leave behind, apart from weights and random states."""
    trainer, modules = at.trainer, list(at.model.modules())
    plain = {key: value for key, value in vars(trainer).items() if isinstance(value, (int, float, str, dict))}
    gradients = trainer.accelerator.gradient_state
    return {
        **deepcopy(plain),
        "state": deepcopy(trainer.state),
        "optimizer": deepcopy(trainer.optimizer.state_dict()),
        "accumulation": (
            gradients.sync_gradients,
            gradients.active_dataloader,
            gradients.dataloader_references,
        ),
        "loaders": list(trainer.accelerator._dataloaders),
        "modes": [module.training for module in modules],
        "checkpointing": [getattr(module, "gradient_checkpointing", None) for module in modules],
        "hooks": [len(module._forward_hooks) for module in modules],
        "gradients": [p.grad for p in at.model.parameters()],
    }


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("fails", [None, "forward", "update"])
@pytest.mark.parametrize("make", [sft_full, sft_lora], ids=["full", "lora"])
def test_step_leaves_no_trace(make: Make, fails: str | None, tmp_path: Path) -> None:
    at = build(make, tmp_path, CHECKPOINTED)
    at.model.eval()
    at.model.get_input_embeddings().train()
    trained = next(p for p in at.model.parameters() if p.requires_grad)

    def draw(*_: object) -> None:
        at.model.calls.add_(1)
        trained.data.add_(random.random() + np.random.rand() + torch.rand(1).item())

    def break_down(*_: object) -> None:
        raise RuntimeError("planted")

    at.model.register_buffer("calls", torch.zeros(1))
    at.model.get_input_embeddings().register_forward_hook(draw)
    if fails == "forward":
        at.model.base_model.register_forward_hook(break_down)
    elif fails == "update":
        at.trainer.optimizer.register_step_post_hook(break_down)
    weights, before, states = copy_weights(at), traces(at), random_states()
    step = take_step(at).step
    assert step.failed == fails
    assert (step.error is None) == (fails is None)
    assert_equal(copy_weights(at), weights)
    assert random_states() == states
    assert traces(at) == before


def test_state_that_an_optimizer_begins_with_is_kept(tmp_path: Path) -> None:
    at = build(sft_full, tmp_path, {"optim": "adagrad"})
    before = deepcopy(at.trainer.optimizer.state_dict()["state"])
    take_step(at)
    after = at.trainer.optimizer.state_dict()["state"]
    assert before and after.keys() == before.keys()
    for index, values in before.items():
        assert_equal(after[index], values)


@pytest.mark.parametrize("fails", ["forward", "backward"])
def test_failed_step_holds_no_activations(fails: str, tmp_path: Path) -> None:
    at = build(sft_full, tmp_path, {})
    activations: list[weakref.ref[torch.Tensor]] = []

    def fail(*_: object) -> None:
        raise RuntimeError("planted")

    last = at.model.model.layers[-1]
    last.register_forward_hook(lambda module, inputs, output: activations.append(weakref.ref(output)))
    if fails == "forward":
        at.model.model.norm.register_forward_hook(fail)
    else:
        last.self_attn.q_proj.weight.register_hook(fail)
    step = take_step(at).step
    assert step.failed == fails
    assert [ref() for ref in activations] == [None]


def test_loss_scaler_is_left_as_it_is(tmp_path: Path) -> None:
    plain = take_step(build(sft_full, tmp_path / "plain", {})).step
    at = build(sft_full, tmp_path / "scaled", {})
    scaler = at.trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    scaled = take_step(at).step
    # A scale that is a power of two changes no bit of a gradient that was scaled and unscaled.
    assert scaled.gradients == plain.gradients
    assert scaled.changed == plain.changed
    assert at.trainer.accelerator.scaler is scaler
    assert scaler.state_dict() == torch.amp.GradScaler("cpu", init_scale=2.0**16).state_dict()


def test_step_tells_what_changed(tmp_path: Path) -> None:
    at = build(sft_lora, tmp_path, {"learning_rate": 2e-4})
    step = take_step(at).step
    trained = {name for name, p in at.model.named_parameters() if p.requires_grad}
    # B is zero before the first step, so that A has a gradient of zero and stays.
    assert set(step.changed or ()) == {name for name in trained if "lora_B" in name}
    assert step.changed_share == 1.0
    assert step.gradients is not None and step.gradients.keys() == trained
    assert all((norm == 0.0) == ("lora_A" in name) for name, norm in step.gradients.items())


def test_step_tells_a_frozen_weight_that_changes(tmp_path: Path) -> None:
    at = build(sft_lora, tmp_path, {})
    frozen = next(name for name, p in at.model.named_parameters() if not p.requires_grad)
    weight = at.model.get_parameter(frozen).data
    at.trainer.optimizer.register_step_post_hook(lambda *_: weight[-1, -1:].add_(1e-3))
    step = take_step(at).step
    assert step.changed is not None and frozen in step.changed


def test_only_what_training_changes_is_copied(tmp_path: Path) -> None:
    at = build(sft_lora, tmp_path, {})
    with _model_restored(at.model, at.trainer.optimizer) as weights:
        assert weights.keys() == {name for name, p in at.model.named_parameters() if p.requires_grad}


def test_empty_data_loader_is_a_failed_batch(tmp_path: Path) -> None:
    at = build(sft_full, tmp_path, {"per_device_train_batch_size": 64, "dataloader_drop_last": True})
    step = take_step(at).step
    assert step.failed == "batch"
    assert "no batch of 32 rows" in str(step.error)


@pytest.mark.parametrize(
    ("make", "training"),
    [
        pytest.param(sft_full, {"num_train_epochs": 1.5, **ACCUMULATED}, id="accumulation"),
        pytest.param(
            sft_full, {"per_device_train_batch_size": 5, "gradient_accumulation_steps": 3}, id="odd"
        ),
        pytest.param(
            sft_full, {"per_device_train_batch_size": 7, "dataloader_drop_last": True}, id="drop-last"
        ),
        pytest.param(
            sft_full, {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 20}, id="few"
        ),
        pytest.param(sft_full, {"max_steps": 3}, id="max-steps"),
        pytest.param(sft_packed, {"num_train_epochs": 3}, id="packed"),
    ],
)
def test_planned_steps_are_the_steps_of_training(
    make: Make, training: Mapping[str, Any], tmp_path: Path
) -> None:
    at = build(make, tmp_path, {"max_steps": -1, **training})
    *_, steps = at.trainer.set_initial_training_values(at.trainer.args, at.trainer.get_train_dataloader())
    assert at.steps == steps
