"""Experiments of the dry step: two ways to ask agree on healthy models, and what cannot be tried says why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from ftrun.checks.experiments import Experiments
from ftrun.checks.stages import AtModel
from ftrun.checks.testing import World, sft_chat, sft_full, sft_lora, sft_packed
from ftrun.runner import round_trip
from ftrun.runner.longest import longest_rows, run_rows
from ftrun.runner.preflight import ascend
from ftrun.runner.step import take_step

Make = Callable[[Path], World]


def build(make: Make, folder: Path, training: Mapping[str, Any] | None = None) -> AtModel:
    world = make(folder)
    world.recipe["training"] |= training or {}
    at = ascend(world.write(), checks=(), folder=lambda file: folder / "run", needed=AtModel).at
    assert isinstance(at, AtModel)
    return at


def experiment(make: Make, folder: Path, training: Mapping[str, Any] | None = None) -> Experiments:
    return take_step(build(make, folder, training)).experiments


def assert_close(pair: tuple[float, float] | None, tolerance: float) -> None:
    assert pair is not None
    assert abs(pair[0] - pair[1]) <= tolerance * abs(pair[0])


@pytest.mark.parametrize("make", [sft_full, sft_lora, sft_chat])
@pytest.mark.parametrize(
    ("training", "tolerance"),
    [({}, 1e-6), ({"bf16": True, "use_cpu": True}, 2e-2)],
    ids=["float32", "bfloat16"],
)
def test_ways_to_ask_agree(make: Make, training: Mapping[str, Any], tolerance: float, tmp_path: Path) -> None:
    found = experiment(make, tmp_path, {"gradient_accumulation_steps": 3, **training})
    assert found.repeated is not None and found.repeated[0] == found.repeated[1]
    assert_close(found.divided, tolerance)
    assert_close(found.accumulated, tolerance)
    assert found.reloaded is not None
    difference, effect = found.reloaded
    assert difference == 0.0 and effect > 0.5
    assert found.tokenizer == ()
    assert found.skipped.keys() == {"packed", "longest", "learnt"} or torch.cuda.is_available()


def test_packed_documents_are_apart(tmp_path: Path) -> None:
    found = experiment(sft_packed, tmp_path)
    assert found.packed == 0.0
    assert "documents without padding" in found.skipped["divided"]


@pytest.mark.parametrize("batch", [1, 16])
def test_batches_of_any_size_are_asked(batch: int, tmp_path: Path) -> None:
    found = experiment(sft_chat, tmp_path, {"per_device_train_batch_size": batch})
    assert found.repeated is not None
    assert (found.divided is None) == (batch == 1)


def test_large_models_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(round_trip, "SAVED", 1000)
    found = experiment(sft_full, tmp_path)
    assert found.reloaded is None and "GB of weights" in found.skipped["reloaded"]


def test_an_experiment_that_fails_says_why_and_leaves_no_trace(tmp_path: Path) -> None:
    def fail(folder: str) -> None:
        raise OSError("No space left on device")

    at = build(sft_full, tmp_path)
    at.trainer.save_model = fail
    weights = {name: value.clone() for name, value in at.model.state_dict().items()}
    found = take_step(at).experiments
    assert "No space left on device" in found.skipped["reloaded"]
    assert all(torch.equal(value, weights[name]) for name, value in at.model.state_dict().items())


def test_nothing_is_tried_after_a_step_that_failed(tmp_path: Path) -> None:
    at = build(sft_full, tmp_path)
    at.model.requires_grad_(False)
    found = take_step(at).experiments
    assert found.repeated is None and "backward" in found.skipped["repeated"]


@pytest.mark.parametrize("make", [sft_full, sft_packed])
def test_the_longest_rows_are_found_and_run(make: Make, tmp_path: Path) -> None:
    at = build(make, tmp_path)
    rows = longest_rows(at.trainer, 3)
    lengths = sorted((len(row["input_ids"]) for row in at.trainer.train_dataset), reverse=True)
    assert [len(row["input_ids"]) for row in rows] == lengths[:3]
    run_rows(at.trainer, rows)
    assert all(p.grad is not None for p in at.model.parameters())


def test_a_row_too_long_for_memory_is_met(tmp_path: Path) -> None:
    def allocate(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].shape[1] > 100:
            torch.empty(2**60, dtype=torch.uint8)

    def lengthen(folder: Path) -> World:
        world = sft_full(folder)
        world.rows[20]["completion"] *= 10
        return world

    at = build(lengthen, tmp_path)
    at.model.get_input_embeddings().register_forward_pre_hook(allocate)
    run_rows(at.trainer, [at.trainer.train_dataset[0]])
    with pytest.raises(RuntimeError, match="allocate"):
        run_rows(at.trainer, longest_rows(at.trainer, 2))


@pytest.mark.gpu
def test_memory_of_the_longest_batch_is_measured(tmp_path: Path) -> None:
    at = build(sft_full, tmp_path, {"use_cpu": False})
    weights = sum(p.numel() * p.element_size() for p in at.model.parameters())
    longest = take_step(at).experiments.longest
    assert longest is not None and longest.error is None
    assert longest.tokens == max(len(row["input_ids"]) for row in at.train_dataset)
    # Weights, gradients and two moments of AdamW are in memory at once.
    assert 4 * weights < longest.peak < longest.total
