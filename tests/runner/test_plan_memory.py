"""Predicted memory is that of torch's own allocator, and the closed form's is that of the prediction."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ftrun.checks.stages import AtData, AtModel
from ftrun.checks.testing import (
    World,
    dpo_full,
    dpo_lora,
    ppo_full,
    ppo_lora,
    reward_full,
    reward_lora,
    sft_full,
)
from ftrun.runner.plan.closed import Load, predict_parts
from ftrun.runner.plan.footprint import count_step, models_of
from ftrun.runner.plan.prediction import prepare_prediction
from ftrun.runner.plan.rows import longest_rows
from ftrun.runner.plan.shape import read_shape
from ftrun.runner.preflight import ascend
from ftrun.runner.trial import count_items


def _load_benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "memory.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_memory", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


benchmark = _load_benchmark()


@pytest.mark.parametrize("case", benchmark.CASES)
def test_the_prediction_is_within_two_percent_of_the_allocator(tmp_path: Path, case: object) -> None:
    fake, real = benchmark.compare(case, tmp_path)
    assert fake == pytest.approx(real, rel=0.02)


def build(world: World) -> AtData:
    at = ascend(world.write(), checks=[], upto=AtData, needed=AtData).at
    assert isinstance(at, AtData)
    return at


@pytest.mark.parametrize("make", [dpo_full, dpo_lora, reward_full, reward_lora, ppo_full, ppo_lora])
def test_every_method_has_a_prediction(tmp_path: Path, make: Any) -> None:
    at = build(make(tmp_path))
    prediction = prepare_prediction(at, tmp_path / "trainer", cuda=False)
    for model in models_of(
        prediction.trainer
    ).values():  # a copy with a mode of its own corrupts torch's memory
        parameters: list[Any] = list(model.parameters())
        assert all(p.fake_mode is prediction.rigs[0].mode for p in parameters)
    found = prediction.predict(2, accumulate=False)
    names = {"ppo": ["policy", "value"], "reward": ["model"], "dpo": ["model"]}[at.recipe.method]
    reference = ["reference"] if at.recipe.method != "reward" and at.recipe.model.lora is None else []
    assert list(found.models) == names + reference
    assert found.peak > found.weights + found.optimizer + found.gradients
    assert found.optimizer == pytest.approx(2 * 4 * found.trained, rel=0.01)


@pytest.mark.parametrize("make", [dpo_full, reward_full])
def test_pairs_take_what_the_counted_step_takes(tmp_path: Path, make: Any) -> None:
    at = build(make(tmp_path))
    found = prepare_prediction(at, tmp_path / "trainer", cuda=False).predict(2, accumulate=False)
    path = at.file.path
    real = ascend(path, checks=[], folder=lambda _: tmp_path / "run", upto=AtModel, needed=AtModel).at
    assert isinstance(real, AtModel)
    batch = real.trainer.data_collator(longest_rows(real.trainer.train_dataset, 2))
    counted = count_step(real.trainer, batch, items=count_items(real.trainer, batch), keep=False)
    assert found.peak == pytest.approx(counted.peak, rel=0.02)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("lora", [None, benchmark.LORA])
def test_a_deep_model_is_that_of_two_shallow_ones(tmp_path: Path, lora: object, kept: bool) -> None:
    load = {"dtype": "bfloat16", "mixed": True, "checkpointed": not kept, "lora": lora}
    config = {**benchmark.CASES[0].config, "num_hidden_layers": 12}
    at = benchmark.build_data(tmp_path, config, load)
    short = benchmark.predict(prepare_prediction(at, tmp_path, cuda=True), 2, 256)
    whole = benchmark.predict(prepare_prediction(at, tmp_path, cuda=True, exact=True), 2, 256)
    assert short.peak == pytest.approx(whole.peak, rel=1e-3)
    assert replace(short, parts={}) == replace(whole, parts={})


CPU, GPU, MIXED = ("float32", False, False), ("bfloat16", True, True), ("float32", True, True)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize(
    ("family", "lora", "kind"),
    [
        ("llama", None, MIXED),
        ("llama", None, GPU),
        ("llama", benchmark.LORA, GPU),
        ("qwen3", None, MIXED),
        ("qwen3", benchmark.LORA, GPU),
        ("gpt2", None, CPU),
        ("gpt2", benchmark.LORA, CPU),
    ],
)
def test_the_closed_form_is_within_three_percent_of_the_prediction(
    tmp_path: Path, family: str, lora: object, kind: tuple[str, bool, bool], kept: bool
) -> None:
    config = benchmark.LARGE if family == "llama" else benchmark.MIDDLE[family]
    dtype, mixed, cuda = kind
    load: dict[str, Any] = {"dtype": dtype, "mixed": mixed, "checkpointed": not kept, "lora": lora}
    prediction = prepare_prediction(benchmark.build_data(tmp_path, config, load), tmp_path, cuda=cuda)
    for keep in (False, True):
        found = benchmark.predict(prediction, 4, 1024, accumulate=keep)
        closed = predict_parts(Load(read_shape(config), 4, 1024, cuda=cuda, keep=keep, **load))
        assert max(closed.values()) == pytest.approx(found.peak, rel=0.03)


def test_gradients_of_earlier_micro_batches_are_counted(tmp_path: Path) -> None:
    prediction = prepare_prediction(build(sft_full(tmp_path)), tmp_path / "trainer", cuda=False)
    alone, more = (prediction.predict(2, accumulate=keep) for keep in (False, True))
    assert more.parts["forward"].bytes == alone.parts["forward"].bytes + alone.gradients


def test_padded_rows_take_a_mask(tmp_path: Path) -> None:
    at = build(sft_full(tmp_path))
    prediction = prepare_prediction(at, tmp_path / "trainer", cuda=False)
    trainer = prediction.rigs[0].at.trainer
    ids = [[5] * 256, [5] * 256]
    trainer.train_dataset = benchmark.Dataset.from_dict({"input_ids": ids, "labels": ids})
    whole = prediction.predict(2, accumulate=False).activations
    ids[1] = ids[1][:255]
    trainer.train_dataset = benchmark.Dataset.from_dict({"input_ids": ids, "labels": ids})
    padded = prediction.predict(2, accumulate=False).activations
    assert padded >= whole + 2 * 256 * 256
