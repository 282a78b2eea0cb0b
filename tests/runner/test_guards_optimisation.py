"""Guards of the optimisation, each driven by a run that is made to fail; `benchmarks/divergences.py` has more."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.divergences.planted import (
    STEP,
    Divergence,
    always,
    hold_other_tensors,
    list_divergences,
    make_world,
    move_reference,
    once,
    scale_loss,
    set_gradient,
    shrink,
)
from tests.divergences.runs import Outcome, Plant, run_planted, run_twin
from transformers import AutoTokenizer

from ftrun.checks.catalogue import load_guards
from ftrun.checks.engine import run_checks
from ftrun.checks.stages import AtModel
from ftrun.checks.testing import World, dpo_full, dpo_lora, ppo_lora, sft_full, sft_lora
from ftrun.checks.training import AtUpdate, History, Update
from ftrun.runner.tiny import locate
from ftrun.schemas.load import load_recipe
from ftrun.schemas.resolve import resolve

ROOT = Path(__file__).resolve().parents[2]


def weights(world: World, folder: str = "model") -> dict[str, torch.Tensor]:
    return load_file(world.folder / "runs" / "healthy-1" / folder / "model.safetensors")


def told(outcome: Outcome) -> list[str]:
    return [event["guard"] for event in outcome.events]


def with_guard(make: Callable[[Path], World], folder: Path, name: str, **settings: Any) -> World:
    world = make_world(make, folder)
    world.recipe["guards"][name] = settings
    return world


@pytest.mark.parametrize(
    "what",
    [
        "sft: the rate is 300 times as high for a step",
        "dpo, LoRA: a weight becomes NaN",
        "reward: moments become NaN",
        "ppo: a gradient is infinite",
    ],
)
def test_a_run_that_diverges_once_ends_as_its_twin(what: str, tmp_path: Path) -> None:
    planted: Divergence = next(one for one in list_divergences() if one.what == what)
    ended: list[Outcome] = []
    for name in ("fault", "twin"):
        world = make_world(planted.make, tmp_path / name)
        world.recipe["training"]["max_steps"] = 36
        ended.append(run_planted(world, planted.plant) if not ended else run_twin(world, ended[0]))
    fault, twin = ended
    assert told(fault)[0] in planted.told and math.isfinite(fault.loss)
    if planted.within is not None:
        assert 0 <= fault.events[0]["step"] - STEP <= planted.within
    assert fault.loss == twin.loss


def test_a_loss_that_runs_away_goes_back_to_before_it_rose(tmp_path: Path) -> None:
    planted = next(one for one in list_divergences() if "multiplied by 5" in one.what)
    world = make_world(sft_full, tmp_path)
    world.recipe["training"]["save_steps"] = 2
    world.recipe["guards"]["weights_jump"] = {"action": False}  # which tells it first
    outcome = run_planted(world, planted.plant)
    (event,) = outcome.events
    assert event["guard"] == "GUARD002" and event["step"] > STEP + 2
    gone_back = int(event["done"].split("step ")[1].split(",")[0])
    assert gone_back <= STEP - 1, "the checkpoints behind it hold weights that were damaged already"


def fail_at_tilde(at: AtModel) -> None:
    """The model cannot compute a text that has this token."""
    (token,) = at.tokenizer("~", add_special_tokens=False)["input_ids"]
    at.model.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: output.masked_fill((inputs[0] == token)[..., None], math.nan)
    )


@pytest.mark.parametrize("action", ["warn", "stop"])
def test_an_evaluation_that_is_no_number_is_told(action: str, tmp_path: Path) -> None:
    world = with_guard(sft_full, tmp_path, "evaluation_not_finite", action=action)
    world.eval_rows = [{"prompt": "What colour is ~?\n", "completion": "Nobody knows."}]
    world.recipe["data"]["eval"] = [{"path": "eval.jsonl"}]
    world.recipe["training"] |= {"max_steps": 6, "eval_strategy": "steps", "eval_steps": 3}
    outcome = run_planted(world, fail_at_tilde)
    assert told(outcome) == ["GUARD015"] and outcome.events[0]["step"] == 3
    assert ("GUARD015 stopped the run" in outcome.error) == (action == "stop")


@pytest.mark.parametrize("saved", [True, False])
def test_weights_that_are_no_numbers_are_found_before_they_are_saved(saved: bool, tmp_path: Path) -> None:
    """The row of a token that no text has: neither loss nor gradient know of it."""
    world = make_world(sft_full, tmp_path)
    world.recipe["training"] |= {"max_steps": 14, "save_steps": 3 if saved else 50}
    (token,) = AutoTokenizer.from_pretrained(locate())("~", add_special_tokens=False)["input_ids"]

    def do(trainer: Any) -> None:
        trainer.model.get_input_embeddings().weight.data[token] = math.inf

    outcome = run_planted(world, once(do, "behind", [5]))
    assert told(outcome) == ["GUARD020"] and outcome.events[0]["step"] == (6 if saved else 10)
    assert f"went back to step {3 if saved else 0}" in outcome.events[0]["done"]
    assert not outcome.error and all(weight.isfinite().all() for weight in weights(world).values())


@pytest.mark.parametrize(
    ("plant", "settings", "step"),
    [
        (always(set_gradient(0.0, "layers.0."), "gradients", first=1), {}, 30),
        (always(set_gradient(0.0, "layers.0."), "gradients", first=1), {"looks": 2}, 20),
        (always(shrink("layers.0."), "gradients", first=1), {}, 30),
        (always(shrink("layers.0."), "gradients", first=1), {"ratio": 1e12}, None),
    ],
)
def test_a_layer_that_is_not_trained_is_named(
    plant: Plant, settings: dict[str, Any], step: int | None, tmp_path: Path
) -> None:
    world = with_guard(sft_full, tmp_path, "gradients_vanish_in_layers", **settings)
    world.recipe["training"] |= {"max_steps": 31, "save_strategy": "no"}
    outcome = run_planted(world, plant)
    if step is None:
        assert not outcome.events
    else:
        (event,) = outcome.events
        assert event["guard"] == "GUARD008" and event["step"] == step
        assert "model.layers.0 is given" in event["message"]


@pytest.mark.parametrize("what", ["sft, LoRA: the frozen base moves", "dpo: the reference moves"])
def test_what_is_frozen_may_not_move(what: str, tmp_path: Path) -> None:
    planted = next(one for one in list_divergences() if one.what == what)
    world = make_world(planted.make, tmp_path)
    outcome = run_planted(world, planted.plant)
    assert "GUARD016 stopped the run at step 30" in outcome.error


def test_a_reference_that_follows_on_purpose_may_move(tmp_path: Path) -> None:
    world = make_world(dpo_full, tmp_path)
    world.recipe["training"] |= {"max_steps": 12, "sync_ref_model": True, "ref_model_sync_steps": 2}
    outcome = run_planted(world, once(move_reference, steps=[3]))
    assert not outcome.events and not outcome.error


def contradict(world: World) -> None:
    """Pairs labelled by chance: each has its opposite."""
    world.rows = [
        {"prompt": row["prompt"], "chosen": row[first], "rejected": row[second]}
        for row in world.rows[:16]
        for first, second in (("chosen", "rejected"), ("rejected", "chosen"))
    ]
    world.recipe["training"] |= {"learning_rate": 3e-6, "per_device_train_batch_size": 2}


def lower_rate(rate: float) -> Callable[[World], None]:
    return lambda world: world.recipe["training"].update(learning_rate=rate)


def train_coarsely(world: World) -> None:
    world.recipe["model"]["dtype"] = "bfloat16"
    world.recipe["training"]["learning_rate"] = 1e-7


def narrow(world: World) -> None:
    world.recipe["model"]["lora"] = {"r": 1, "lora_alpha": 1, "target_modules": ["q_proj"]}
    world.recipe["training"]["learning_rate"] = 1e-7


def nothing(at: AtModel) -> None:
    pass


STUCK: dict[str, tuple[Callable[[Path], World], Callable[[World], None], Plant, str]] = {
    "rate": (sft_full, lower_rate(1e-7), nothing, "the learning rate is too low"),
    "tiny rate": (sft_full, lower_rate(1e-13), nothing, "updates are too small to change anything"),
    "coarse": (sft_full, train_coarsely, nothing, "updates round to nothing in bfloat16"),
    "optimizer": (sft_full, lower_rate(1e-3), hold_other_tensors, "the optimizer holds 0 of"),
    "adapters": (
        sft_lora,
        lower_rate(1e-9),
        nothing,
        "one batch cannot be learnt by heart with these adapters",
    ),
    "labels": (dpo_full, contradict, nothing, "one batch can be learnt by heart"),
}


@pytest.mark.parametrize("name", STUCK)
def test_a_loss_that_does_not_fall_is_told_with_its_cause(name: str, tmp_path: Path) -> None:
    make, change, plant, cause = STUCK[name]
    ended = []
    for on in (True, False):
        world = make_world(make, tmp_path / str(on))
        world.recipe["training"] |= {"max_steps": 70, "save_strategy": "no"}
        world.recipe["guards"]["loss_does_not_fall"] = {"steps": 50} if on else {"action": False}
        change(world)
        if name != "coarse" or on:
            outcome = run_planted(world, plant)
            found = [event for event in outcome.events if event["guard"] == "GUARD017"]
            assert [cause in event["message"] for event in found] == ([True] if on else []), outcome.events
            file = "adapter_model.safetensors" if make is sft_lora else "model.safetensors"
            ended.append(load_file(world.folder / "runs" / "healthy-1" / "model" / file))
    # What was tried has left no trace.
    assert all(torch.equal(ended[0][key], ended[-1][key]) for key in ended[0])


@pytest.mark.parametrize("settings", [{"steps": 90}, {"fall": 1e-4}])
def test_a_loss_is_not_judged_too_early_nor_too_strictly(settings: dict[str, float], tmp_path: Path) -> None:
    world = with_guard(sft_full, tmp_path, "loss_does_not_fall", **settings)
    world.recipe["training"] |= {"max_steps": 70, "save_strategy": "no", "learning_rate": 1e-7}
    assert not run_planted(world).events


@pytest.mark.parametrize(("clip", "found"), [(1.0, []), (0.0, ["GUARD018"])])
def test_a_spike_that_is_clipped_is_no_finding(clip: float, found: list[str], tmp_path: Path) -> None:
    world = make_world(sft_full, tmp_path)
    world.recipe["training"] |= {"max_grad_norm": clip, "max_steps": 40}
    outcome = run_planted(world, once(scale_loss(1e6)))
    assert told(outcome) == found
    assert all(event["step"] == STEP for event in outcome.events)


def ask_spikes(norms: list[float], losses: list[float], **settings: float) -> list[str]:
    """What is said behind each update."""
    sets = [f"guards.gradient_norm_spikes.{key}={value}" for key, value in settings.items()]
    file = load_recipe(ROOT / "recipes" / "sft.yaml", sets)
    (guard,) = (one for one in load_guards() if one.name == "gradient_norm_spikes")
    updates, messages = History(), []
    for step, (norm, loss) in enumerate(zip(norms, losses, strict=True), 1):
        updates.append(Update(step, loss, norm))
        (result,) = run_checks(
            (guard,), AtUpdate(resolve(file.recipe), file, updates), method="sft", ignore={}
        )
        assert result.verdict in ("passed", "found"), result.reason
        messages += [finding.message for finding in result.findings]
    return messages


def test_a_spike_is_judged_by_what_follows() -> None:
    norms = [1.0 + 0.1 * (step % 3) for step in range(60)]
    even = [2.0 + 0.1 * (step % 4) for step in range(60)]
    worse = [*even[:41], *(loss + 1.0 for loss in even[41:])]
    norms[40] = 20.0
    assert not ask_spikes(norms, even)
    assert "and the loss of the steps since is 3.1" in ask_spikes(norms, worse)[0]
    assert not ask_spikes(norms, worse, factor=30)


def test_spikes_that_come_again_are_told_where_the_loss_does_not_fall() -> None:
    norms = [30.0 if step > 50 and step % 8 == 0 else 1.0 + 0.1 * (step % 3) for step in range(160)]
    stays = [2.0 + 0.1 * (step % 4) for step in range(160)]
    falls = [loss - 0.01 * step for step, loss in enumerate(stays)]
    assert "the 10th such spike" in ask_spikes(norms, stays)[0]
    assert not ask_spikes(norms, falls)
    assert not ask_spikes(norms, stays, count=50)


def use_float16(monkeypatch: pytest.MonkeyPatch, scale: float) -> Plant:
    """What accelerate makes of `training.fp16: true` on a GPU: gradients are scaled."""

    def plant(at: AtModel) -> None:
        accelerator = at.trainer.accelerator
        accelerator.native_amp = True
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        monkeypatch.setitem(accelerator.state._shared_state, "_mixed_precision", "fp16")

    return plant


def test_a_scale_of_float16_that_comes_down_is_no_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(sft_full, tmp_path)
    world.recipe["training"] |= {"max_steps": 8, "save_strategy": "no"}
    outcome = run_planted(world, use_float16(monkeypatch, 2.0**127))
    assert not outcome.events and math.isfinite(outcome.loss)


def test_a_step_is_left_out_in_float16_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(sft_full, tmp_path)
    world.rows[10]["prompt"] = "What colour is ~?\n"
    world.recipe["training"] |= {"max_steps": 10, "save_steps": 1}
    scaled = use_float16(monkeypatch, 1.0)

    def plant(at: AtModel) -> None:
        scaled(at)
        fail_at_tilde(at)

    outcome = run_planted(world, plant)
    assert not outcome.error and told(outcome) == ["GUARD001"]
    assert "train.jsonl row 11" in outcome.events[0]["done"]
    step = outcome.events[0]["step"]
    before, behind = (weights(world, f"checkpoints/checkpoint-{number}") for number in (step - 1, step))
    assert all(torch.equal(before[name], behind[name]) for name in before)


@pytest.mark.parametrize("make", [sft_lora, dpo_lora, ppo_lora])
def test_looks_are_silent_and_leave_no_trace_with_adapters(
    make: Callable[[Path], World], tmp_path: Path
) -> None:
    ended = []
    for on in (True, False):
        world = make_world(make, tmp_path / str(on))
        world.recipe["training"] |= {"max_steps": 22, "gradient_accumulation_steps": 2}
        if not on:
            world.recipe["guards"] = {guard.name: {"action": False} for guard in load_guards()}
        outcome = run_planted(world)
        assert not outcome.events and not outcome.error
        ended.append(load_file(world.folder / "runs" / "healthy-1" / "model" / "adapter_model.safetensors"))
    assert all(torch.equal(ended[0][name], ended[1][name]) for name in ended[0])
