"""Guards, each driven by a run that is made to fail."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Trainer

from ftrun.checks.catalogue import load_checks, load_guards
from ftrun.checks.check import Check
from ftrun.checks.engine import run_checks
from ftrun.checks.testing import World, dpo_full, ppo_full, reward_full, sft_full, sft_lora
from ftrun.checks.training import AtEvaluation, AtUpdate, Evaluation, History, Update
from ftrun.runner.printing.text import make_console
from ftrun.runner.run import run_recipe
from ftrun.runner.tiny import locate
from ftrun.runner.tracking.journal import read_journal
from ftrun.schemas.errors import RunError
from ftrun.schemas.load import load_recipe
from ftrun.schemas.resolve import resolve

ROOT = Path(__file__).resolve().parents[2]

UNSAFE = {check.id: "made to fail" for check in load_checks()}


def run(world: World, resume: bool = False) -> int:
    console = make_console()
    return run_recipe(world.write(), sets=(), ignore=UNSAFE, out=console, err=console, resume=resume)


def events(world: World, number: int = 1) -> list[dict[str, Any]]:
    file = world.folder / "runs" / f"healthy-{number}" / "events.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def weights(world: World, number: int = 1, folder: str = "model") -> dict[str, torch.Tensor]:
    return load_file(world.folder / "runs" / f"healthy-{number}" / folder / "model.safetensors")


def poison(world: World) -> None:
    """A model that computes everything but one token, and a row that has it."""
    model = AutoModelForCausalLM.from_pretrained(locate(), tie_word_embeddings=False)
    world.folder.mkdir(parents=True, exist_ok=True)
    folder = world.folder / "poisoned"
    shutil.copytree(locate(), folder)
    from transformers import AutoTokenizer

    (token,) = AutoTokenizer.from_pretrained(folder)("~", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        model.get_output_embeddings().weight.copy_(model.get_input_embeddings().weight)
        model.get_input_embeddings().weight[token] = 3e38
    model.save_pretrained(folder)
    world.recipe["model"]["path"] = str(folder)
    world.rows[10]["prompt"] = "What colour is ~?\n"


def test_a_row_that_cannot_be_computed_is_named_and_left_out(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    poison(world)
    world.recipe["training"] |= {"num_train_epochs": 1, "save_strategy": "steps", "save_steps": 1}
    assert run(world) == 0
    told = events(world)
    assert len(told) == 1 and told[0]["guard"] == "GUARD001"
    assert "train.jsonl row 11" in told[0]["done"]
    assert all(
        torch.isfinite(weight).all() for weight in weights(world).values() if weight.abs().max() < 1e38
    )
    remedy = json.loads((world.folder / "runs" / "healthy-1" / "remedy.json").read_text())
    assert remedy["skipped"] == [told[0]["step"]] and remedy["learning_rate_factor"] == 1.0
    # The bad step is made without its rows: the weights behind it are those before it, to the last bit.
    step = told[0]["step"]
    before, behind = (
        weights(world, folder=f"checkpoints/checkpoint-{number}") for number in (step - 1, step)
    )
    assert all(torch.equal(before[name], behind[name]) for name in before)


@pytest.mark.parametrize("make", [sft_full, sft_lora, dpo_full, reward_full, ppo_full])
def test_a_rate_that_destroys_the_model_is_lowered_from_the_last_good_state(
    make: Callable[[Path], World], tmp_path: Path
) -> None:
    world = make(tmp_path)
    world.recipe["training"] |= {"learning_rate": 1e20, "warmup_steps": 0, "logging_steps": 1, "max_steps": 6}
    world.recipe["guards"] = {"learning_rate_factor": 1e-24}
    assert run(world) == 0
    *tried, told = events(world)
    # No step of PPO is left out: they are parts of a rollout.
    ways = ["goes on as before", "leaves out step 2"][: 1 if make is ppo_full else 2]
    assert [one["done"] for one in tried] == [f"went back to step 0, and {way}" for way in ways]
    assert told["guard"] == "GUARD001"
    assert "went back to step 0" in told["done"] and "clipped to 0.5" in told["done"]
    journal = read_journal(tmp_path / "runs" / "healthy-1" / "metrics.jsonl")
    rates = [one.metrics["train/learning_rate"] for one in journal if "train/learning_rate" in one.metrics]
    assert rates[-2] < 1e-3

    # What follows is the run that would have begun with the lower rate.
    world.recipe["training"] |= {"learning_rate": 1e20 * 1e-24, "max_grad_norm": 0.5}
    assert run(world) == 0
    name = "adapter_model.safetensors" if make is sft_lora else "model.safetensors"
    ended = [load_file(tmp_path / "runs" / f"healthy-{n}" / "model" / name) for n in (1, 2)]
    for weight, twin in zip(*(one.values() for one in ended), strict=True):
        torch.testing.assert_close(weight, twin, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "greedy"])
def test_a_schedule_that_follows_the_evaluation_is_trained_and_lowered(tmp_path: Path, schedule: str) -> None:
    for rate, told in ((1e-4, 0), (1e20, 3)):
        world = sft_full(tmp_path / f"{rate}")
        world.recipe["training"] |= {"learning_rate": rate, "lr_scheduler_type": schedule, "warmup_steps": 0}
        world.recipe["training"] |= {
            "max_steps": 6,
            "eval_strategy": "steps",
            "eval_steps": 3,
            "logging_steps": 1,
        }
        world.recipe["training"] |= {"metric_for_best_model": "eval_loss", "save_strategy": "no"}
        world.recipe["data"]["eval"] = {"fraction": 0.25}
        world.recipe["guards"] = {"learning_rate_factor": 1e-24}
        assert run(world) == 0
        assert len(events(world)) == told
        journal = read_journal(world.folder / "runs" / "healthy-1" / "metrics.jsonl")
        rates = [
            one.metrics["train/learning_rate"] for one in journal if "train/learning_rate" in one.metrics
        ]
        assert 0 < rates[-1] < 1e-3


def test_a_run_stops_where_rollbacks_do_not_help(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    world.recipe["training"] |= {"learning_rate": 1e25, "warmup_steps": 0, "max_steps": 6}
    world.recipe["guards"] = {"rollbacks": 3, "learning_rate_factor": 0.9}
    with pytest.raises(RunError, match="GUARD001 stopped the run at step 2 after 3 rollbacks"):
        run(world)
    assert [one["done"].split()[0] for one in events(world)] == ["went", "went", "went", "stopped"]
    assert not (tmp_path / "runs" / "healthy-1" / "model").exists()


def test_a_loss_that_runs_away_again_and_again_is_slowed_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl import SFTTrainer

    world = sft_full(tmp_path)
    world.recipe["training"] |= {"learning_rate": 1e-3, "lr_scheduler_type": "constant", "warmup_steps": 0}
    # Some checkpoints are written within the rise, before it is told.
    world.recipe["training"] |= {
        "max_steps": 60,
        "save_strategy": "steps",
        "save_steps": 2,
        "max_grad_norm": 0.0,
    }
    world.recipe["guards"] = {"loss_runs_away": {"window": 5, "action": "rollback"}}
    step = SFTTrainer.training_step

    def climb(self: Trainer, model: Any, inputs: Any, items: Any = None) -> torch.Tensor:
        """From step 40 on, until it is trained more slowly, the model is pulled away from what it has learnt."""
        loss: torch.Tensor = step(self, model, inputs, items)
        if self.state.global_step >= 40 and self.optimizer.param_groups[0]["lr"] > 5e-4:
            for weight in model.parameters():
                weight.grad.neg_().mul_(100)
        return loss

    monkeypatch.setattr(SFTTrainer, "training_step", climb)
    assert run(world) == 0
    told = [one for one in events(world) if one["guard"] == "GUARD002"]
    assert [one["done"].split(", ")[1].split()[0] for one in told] == ["and", "and", "with"]
    gone_back = [int(one["done"].split("step ")[1].split(",")[0]) for one in told]
    assert told[0]["step"] > 44 and max(gone_back) <= 42


def test_memory_that_runs_out_halves_the_micro_batch_and_keeps_every_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl import SFTTrainer

    ended = []
    for full in (False, True):
        world = sft_full(tmp_path / str(full))
        world.recipe["training"] |= {"max_steps": 6, "save_strategy": "steps", "save_steps": 2}
        if full:
            compute = SFTTrainer.compute_loss

            def need_memory(
                self: Any, model: Any, inputs: Any, *args: Any, compute: Any = compute, **kwargs: Any
            ) -> Any:
                if self.state.global_step >= 3 and len(inputs["input_ids"]) > 2:
                    raise torch.OutOfMemoryError("CUDA out of memory.")
                return compute(self, model, inputs, *args, **kwargs)

            monkeypatch.setattr(SFTTrainer, "compute_loss", need_memory)
        assert run(world) == 0
        ended.append(weights(world))
    told = events(world)
    assert [one["guard"] for one in told] == ["GUARD009"] and "went back to step 2" in told[0]["done"]
    assert "per_device_train_batch_size: 2" in told[0]["done"]
    for name, weight in ended[0].items():
        torch.testing.assert_close(weight, ended[1][name], rtol=1e-4, atol=1e-6)


def test_memory_that_runs_out_stops_the_run_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl import SFTTrainer

    def need_memory(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    world = sft_full(tmp_path)
    world.recipe["guards"] = {"memory_ran_out": {"action": "stop"}}
    world.recipe["preflight"] = {"experiments": False}
    monkeypatch.setattr(SFTTrainer, "compute_loss", need_memory)
    with pytest.raises(RunError, match="CUDA out of memory"):
        run(world)
    assert [one["done"] for one in events(world)] == ["stopped the run"]


def test_a_resumed_run_keeps_its_remedy(tmp_path: Path) -> None:
    ended = []
    for interrupted in (False, True):
        world = sft_full(tmp_path / str(interrupted))
        world.recipe["training"] |= {"learning_rate": 1e20, "warmup_steps": 0, "save_strategy": "steps"}
        world.recipe["training"] |= {"max_steps": 8, "save_steps": 4}
        world.recipe["guards"] = {"learning_rate_factor": 1e-24}
        assert run(world) == 0
        if interrupted:
            shutil.rmtree(tmp_path / "True" / "runs" / "healthy-1" / "checkpoints" / "checkpoint-8")
            assert run(world, resume=True) == 0
        ended.append(weights(world))
    assert all(torch.equal(ended[0][name], ended[1][name]) for name in ended[0])


def test_overfitting_is_told_once_and_only_where_it_is(tmp_path: Path) -> None:
    for fits in (True, False):
        world = sft_full(tmp_path / str(fits))
        world.eval_rows = [row | {"completion": row["completion"]} for row in world.rows[:8]]
        if not fits:  # rows held out that contradict those that train
            world.eval_rows = [
                {"prompt": row["prompt"], "completion": "Nobody knows, and nobody asks."}
                for row in world.rows[:8]
            ]
        world.recipe["data"]["eval"] = [{"path": "eval.jsonl"}]
        world.recipe["training"] |= {"learning_rate": 2e-3, "num_train_epochs": 10, "eval_strategy": "epoch"}
        assert run(world) == 0
        assert [one["guard"] for one in events(world)] == ([] if fits else ["GUARD003"])


def test_overfitting_may_end_training_with_the_best_weights(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    world.eval_rows = [
        {"prompt": row["prompt"], "completion": "Nobody knows, and nobody asks."} for row in world.rows[:8]
    ]
    world.recipe["data"]["eval"] = [{"path": "eval.jsonl"}]
    world.recipe["training"] |= {"learning_rate": 2e-3, "num_train_epochs": 10, "eval_strategy": "epoch"}
    world.recipe["training"] |= {"save_strategy": "epoch", "load_best_model_at_end": True}
    world.recipe["guards"] = {"overfitting": {"action": "end"}}
    assert run(world) == 0
    (event,) = events(world)
    folder = world.folder / "runs" / "healthy-1"
    losses = {
        entry.step: entry.metrics["eval/loss"]
        for entry in read_journal(folder / "metrics.jsonl")
        if "eval/loss" in entry.metrics
    }
    assert event["done"] == "ended training" and event["step"] == max(losses) and len(losses) < 10
    best = load_file(
        folder / "checkpoints" / f"checkpoint-{min(losses, key=losses.__getitem__)}" / "model.safetensors"
    )
    assert all(torch.equal(weight, best[name]) for name, weight in weights(world).items())


@pytest.mark.parametrize("guard", load_guards(), ids=lambda guard: guard.id)
def test_a_guard_is_whole(guard: Check) -> None:
    for heading in ("Symptom:", "Cause:", "Fix:", "Prevention:"):
        assert heading in guard.documentation
    assert guard.name == guard.module.rpartition(".")[2]
    assert getattr(load_recipe(ROOT / "recipes" / "sft.yaml").recipe.guards, guard.name).action


@pytest.mark.parametrize(
    ("sets", "found"),
    [((), True), (("factor=4",), False), (("rise=3",), False), (("window=30",), False)],
)
def test_the_thresholds_of_a_loss_that_runs_away(sets: tuple[str, ...], found: bool) -> None:
    file = load_recipe(ROOT / "recipes" / "sft.yaml", [f"guards.loss_runs_away.{one}" for one in sets])
    losses = [1.0] * 30 + [3.5] * 10
    at = AtUpdate(
        resolve(file.recipe), file, History(Update(i + 1, loss, 1.0) for i, loss in enumerate(losses))
    )
    (guard,) = (one for one in load_guards() if one.name == "loss_runs_away")
    (result,) = run_checks((guard,), at, method="sft", ignore={})
    assert (result.verdict == "found") == found


@pytest.mark.parametrize(("gap", "found"), [(0.5, True), (2.0, False)])
def test_the_gap_of_overfitting(gap: float, found: bool) -> None:
    file = load_recipe(ROOT / "recipes" / "sft.yaml", [f"guards.overfitting.gap={gap}"])
    evaluations = [Evaluation(i, {"eval_loss": loss}, 0.3) for i, loss in enumerate((1.0, 1.2, 1.4))]
    (guard,) = (one for one in load_guards() if one.name == "overfitting")
    (result,) = run_checks((guard,), AtEvaluation(file.recipe, file, evaluations), method="sft", ignore={})
    assert (result.verdict == "found") == found


@pytest.mark.parametrize("make", [sft_full, dpo_full, reward_full, ppo_full])
def test_guards_change_nothing_in_a_healthy_run(make: Callable[[Path], World], tmp_path: Path) -> None:
    ended = []
    for on in (True, False):
        world = make(tmp_path / str(on))
        if not on:
            world.recipe["guards"] = {guard.name: {"action": False} for guard in load_guards()}
        assert run(world) == 0
        assert not events(world)
        ended.append(weights(world))
    assert all(torch.equal(ended[0][name], ended[1][name]) for name in ended[0])
