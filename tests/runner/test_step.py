"""The dry step tells what a step does, and leaves no trace of itself."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from ftrun.checks.stages import AtModel, AtStep
from ftrun.checks.testing import World, sft_chat, sft_full, sft_lora, sft_packed
from ftrun.runner.preflight import ascend
from ftrun.runner.step import take_step

Make = Callable[[Path], World]

ACCUMULATED = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
CHECKPOINTED = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}


def build(make: Make, folder: Path, training: Mapping[str, Any], lora: Mapping[str, Any] | None = None) -> AtModel:
    world = make(folder)
    world.recipe["training"] |= {"logging_steps": 1, "save_strategy": "no", **training}
    if lora is not None:
        world.recipe["model"]["lora"] |= lora
    ascent = ascend(world.write(), checks=(), folder=lambda file: folder / "run", needed=AtModel)
    assert isinstance(ascent.at, AtModel)
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
        pytest.param(sft_lora, CHECKPOINTED, {"lora_dropout": 0.2, "use_dora": True}, id="dora-checkpointing"),
        pytest.param(sft_chat, {"eval_strategy": "steps", "eval_steps": 5, **CHECKPOINTED}, None, id="chat-eval"),
        pytest.param(sft_packed, ACCUMULATED, None, id="packed-accumulation"),
        pytest.param(sft_full, {"optim": "adagrad", "label_smoothing_factor": 0.1}, None, id="adagrad"),
        pytest.param(sft_full, {"bf16": True, "dataloader_num_workers": 2}, None, id="bf16-workers"),
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


def _states() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()


def _counters(at: AtModel) -> dict[str, Any]:
    """All of the trainer that is a plain value, and what accelerate keeps of it."""
    trainer = at.trainer
    plain = {key: value for key, value in vars(trainer).items() if isinstance(value, (int, float, str, dict))}
    gradients = trainer.accelerator.gradient_state
    return {
        **plain,
        "state": trainer.state,
        "sync": gradients.sync_gradients,
        "active loader": gradients.active_dataloader,
        "loaders": list(trainer.accelerator._dataloaders),
        "optimizer": trainer.optimizer.state_dict(),
        "modes": [module.training for module in at.model.modules()],
        "checkpointing": [getattr(module, "gradient_checkpointing", None) for module in at.model.modules()],
        "hooks": [len(module._forward_hooks) for module in at.model.modules()],
        "gradients": [p.grad for p in at.model.parameters()],
    }


def break_forward(at: AtModel) -> None:
    def fail(*_: object) -> None:
        next(at.model.parameters()).data.add_(1.0)
        raise RuntimeError("planted")

    at.model.get_output_embeddings().register_forward_pre_hook(fail)
    torch.rand(1)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("make", [sft_full, sft_lora], ids=["full", "lora"])
def test_step_leaves_no_trace(make: Make, tmp_path: Path) -> None:
    at = build(make, tmp_path, CHECKPOINTED)
    at.model.eval()
    at.model.get_input_embeddings().train()
    weights, counters, states = copy_weights(at), _counters(at), _states()
    take_step(at)
    assert_equal(copy_weights(at), weights)
    assert _states() == states
    assert _counters(at) == counters
