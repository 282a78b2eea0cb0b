"""Guards of PPO and DPO, each driven by a run whose policy is made to go astray."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ftrun.checks.catalogue import load_checks, load_guards
from ftrun.checks.engine import run_checks
from ftrun.checks.rollouts import (
    AtDistance,
    AtRollout,
    Distance,
    HeldOut,
    Rollout,
    Rollouts,
    share_unique,
)
from ftrun.checks.testing import World, dpo_full, dpo_lora, ppo_full, sft_full
from ftrun.runner.printing.text import make_console
from ftrun.runner.run import run_recipe
from ftrun.runner.tiny import locate
from ftrun.runner.tracking.journal import read_journal
from ftrun.schemas.errors import RunError
from ftrun.schemas.load import load_recipe
from ftrun.schemas.resolve import resolve

ROOT = Path(__file__).resolve().parents[2]

UNSAFE = {check.id: "made to fail" for check in load_checks()}

OWN = ("GUARD005", "GUARD007", "GUARD011", "GUARD012", "GUARD013", "GUARD014", "GUARD019")


def run(world: World, resume: bool = False) -> int:
    console = make_console()
    return run_recipe(world.write(), sets=(), ignore=UNSAFE, out=console, err=console, resume=resume)


def events(world: World) -> list[dict[str, Any]]:
    """What the guards of this file said, in order."""
    file = world.folder / "runs" / "healthy-1" / "events.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [one for one in map(json.loads, lines) if one["guard"] in OWN]


def figures(world: World, name: str) -> list[float]:
    journal = read_journal(world.folder / "runs" / "healthy-1" / "metrics.jsonl")
    return [one.metrics[name] for one in journal if name in one.metrics]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that answers: the distance from one that knows nothing says nothing."""
    world = sft_full(tmp_path_factory.mktemp("trained"))
    world.recipe["training"] |= {"learning_rate": 3e-3, "num_train_epochs": 12, "save_strategy": "no"}
    assert run(world) == 0
    return str(world.folder / "runs" / "healthy-1" / "model")


def ppo(folder: Path, model: str, reward: str, **training: Any) -> World:
    """A run that pays for what the expression `reward` says of the answer `text`, and is held to nothing."""
    world = ppo_full(folder)
    world.recipe["model"]["path"] = model
    world.recipe["training"] |= {
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "kl_coef": 0.0,
        "response_length": 24,
        "per_device_train_batch_size": 8,
        "num_train_epochs": 100,
        "save_strategy": "no",
        "logging_steps": 1000,
    } | training
    (folder / "rewards.py").write_text(
        f"import zlib\ndef share_of_letters(completions):\n    return [float({reward}) for text in completions]\n",
        encoding="utf-8",
    )
    return world


REPEATED = "len(text.split()) - len(set(text.split()))"


def test_repetition_that_pays_is_held_then_gone_back_from_then_stopped(tmp_path: Path, trained: str) -> None:
    world = ppo(tmp_path, trained, REPEATED, max_steps=160)
    world.recipe["guards"] = {
        "answers_repeat": {"action": "raise_kl", "unique_words": 0.65},
        "kl_coef_factor": 1.5,
        "rollbacks": 1,
    }
    with pytest.raises(RunError, match=r"GUARD011 stopped the run at step .* after 1 rollbacks"):
        run(world)
    told = [one for one in events(world) if one["guard"] == "GUARD011"]
    first, back, again, end = told
    assert first["done"] == "raised the KL coefficient from 0 to 0.05"
    assert back["step"] >= first["step"] + 40  # ten rollouts
    assert back["done"] == "went back to step 0, with a KL coefficient of 0.075"
    assert again["done"] == "raised the KL coefficient from 0.075 to 0.113"
    assert end["done"].startswith("stopped the run")
    # The worst answers are a table of MLflow's.
    table = json.loads((tmp_path / "runs" / "healthy-1" / "ftrun" / first["table"]).read_text())
    assert table["columns"] == ["prompt", "answer", "score", "length", "ended", "unique_words"]
    assert len(table["data"]) == 10 and table["data"][0][5] == min(row[5] for row in table["data"])


def test_answers_that_grow_until_they_are_cut_stop_the_run(tmp_path: Path, trained: str) -> None:
    world = ppo(tmp_path, trained, "len(text)", max_steps=80)
    world.recipe["guards"] = {"length_runs_away": {"action": "stop"}}
    with pytest.raises(RunError, match=r"GUARD012 stopped .* of the answers come to an end"):
        run(world)


@pytest.mark.parametrize(("reward", "told"), [("0.5", ["GUARD007"]), ("0.05 * text.count('e') / 9", [])])
def test_a_reward_without_a_difference_is_told_and_a_small_one_is_not(
    tmp_path: Path, reward: str, told: list[str]
) -> None:
    world = ppo(tmp_path, "tiny", reward, kl_coef=0.05, learning_rate=1e-4, max_steps=16, response_length=8)
    world.recipe["training"] |= {
        "num_ppo_epochs": 1,
        "num_mini_batches": 1,
        "per_device_train_batch_size": 16,
    }
    assert run(world) == 0
    assert [one["guard"] for one in events(world)] == told


def test_a_policy_that_leaves_its_reference_is_held_and_stays_so_when_resumed(
    tmp_path: Path, trained: str
) -> None:
    world = ppo(tmp_path, trained, "len(text) / 50", max_steps=40)
    world.recipe["training"] |= {"save_strategy": "steps", "save_steps": 10}  # within a rollout
    world.recipe["guards"] = {"far_from_reference": {"warn_at": 2, "limit": 4}}
    assert run(world) == 0
    told = [one["done"] for one in events(world) if one["guard"] == "GUARD005"]
    assert told[-1] == "raised the KL coefficient from 0 to 0.05" and len(told) <= 2
    assert figures(world, "train/objective/kl_coef")[-1] == 0.05

    folder = tmp_path / "runs" / "healthy-1"
    ended = load_file(folder / "model" / "model.safetensors")
    shutil.rmtree(folder / "checkpoints" / "checkpoint-40")
    assert run(world, resume=True) == 0
    assert len([one for one in events(world) if one["guard"] == "GUARD005"]) == len(told)
    again = load_file(folder / "model" / "model.safetensors")
    assert all(torch.equal(ended[name], again[name]) for name in ended)


@pytest.mark.parametrize("make", [dpo_full, dpo_lora])
def test_dpo_that_leaves_its_reference_goes_back_with_a_higher_beta(
    make: Any, tmp_path: Path, trained: str
) -> None:
    world = make(tmp_path)
    world.recipe["model"]["path"] = trained
    world.recipe["data"]["eval"] = {"fraction": 0.25}
    rate = 2e-2 if make is dpo_lora else 5e-3
    world.recipe["training"] |= {"beta": 1e-3, "learning_rate": rate, "warmup_steps": 0, "max_steps": 24}
    world.recipe["training"] |= {"eval_strategy": "steps", "eval_steps": 4, "save_strategy": "no"}
    world.recipe["guards"] = {"far_from_reference": {"warn_at": 5, "limit": 20}, "kl_coef_factor": 100}
    assert run(world) == 0
    first, *more = (one["done"] for one in events(world) if one["done"].startswith("went back"))
    assert first == "went back to step 0, with a beta of 0.1"
    # Where that alone does not help, it is the rate.
    assert all(" and 0." in done for done in more)
    assert figures(world, "eval/kl")[-1] < 20 < max(figures(world, "eval/kl"))
    remedy = json.loads((tmp_path / "runs" / "healthy-1" / "remedy.json").read_text())
    assert remedy["coefficient"] == pytest.approx(0.1 * 100 ** len(more))


def test_a_score_that_only_training_prompts_bring_is_told(tmp_path: Path, trained: str) -> None:
    world = ppo(tmp_path, trained, "0", max_steps=48)
    (tmp_path / "rewards.py").write_text(
        "def share_of_letters(completions, sign):\n"
        "    return [one * len(text) / 50 for one, text in zip(sign, completions)]\n",
        encoding="utf-8",
    )
    world.eval_rows = [row | {"sign": -1} for row in world.rows[:8]]
    world.rows = [row | {"sign": 1} for row in world.rows]
    world.recipe["data"]["eval"] = [{"path": "eval.jsonl"}]
    world.recipe["training"] |= {"eval_strategy": "steps", "eval_steps": 8}
    world.recipe["evaluation"] = {"temperature": 1.0}
    assert run(world) == 0
    (told,) = (one for one in events(world) if one["guard"] == "GUARD019")
    assert "The score of held-out prompts was" in told["message"]


FAST = {
    "learning_rate": 5e-3,
    "response_length": 2,
    "per_device_train_batch_size": 32,
    "num_ppo_epochs": 4,
    "vf_coef": 0.5,
    "num_mini_batches": 1,
}
"""A model that knows nothing learns which two tokens pay."""


def test_reward_models_that_part_are_told(tmp_path: Path) -> None:
    world = ppo(tmp_path, "tiny", "0", **FAST, max_steps=64)
    scorers = [save_scorer(tmp_path / f"scorer-{likes}", likes) for likes in (True, False)]
    world.recipe["reward"] = {"models": scorers, "pessimism": 0.0, "penalties": None}
    assert run(world) == 0
    (told,) = (one for one in events(world) if one["guard"] == "GUARD014")
    assert "The reward models disagree by 0." in told["message"]


def save_scorer(folder: Path, likes: bool) -> str:
    """A reward model that likes texts whose last token has an e in it, or gives 0 to all."""
    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(locate())
    scorer = AutoModelForSequenceClassification.from_pretrained(locate(), num_labels=1)
    liked = [number for token, number in tokenizer.get_vocab().items() if "e" in token]
    embeddings = scorer.get_input_embeddings().weight
    direction = torch.randn(embeddings.shape[1])
    with torch.no_grad():
        embeddings[liked] += direction
        scorer.score.weight.copy_(direction / len(direction) * likes)
    scorer.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("solved", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_policy_that_tries_nothing_more_is_told_unless_it_is_done(tmp_path: Path, solved: bool) -> None:
    world = ppo(tmp_path, "tiny", "'e' in text", **FAST, max_steps=120)
    world.recipe["guards"] = {"entropy_collapses": {"entropy": 0.5}}
    if not solved:  # more is to be had than the policy comes to
        (tmp_path / "rewards.py").write_text(
            "def share_of_letters(prompts, completions):\n"
            "    return [('e' in text) + len(prompt) % 2.0 for prompt, text in zip(prompts, completions)]\n",
            encoding="utf-8",
        )
    assert run(world) == 0
    assert [one["guard"] for one in events(world)] == ([] if solved else ["GUARD013"])


GOOD = Rollout(
    step=1,
    answers=64,
    score=1.0,
    deviation=1.0,
    high=3.0,
    length=50.0,
    ended=0.9,
    unique_words=0.9,
    entropy=1.0,
    kl=0.0,
    kl_error=0.1,
    disagreement=0.1,
)


def ask(name: str, setting: str, later: dict[str, Any], held_out: Sequence[float] = ()) -> bool:
    """Whether a guard finds something in ten good rollouts and as many later ones."""
    rollouts = Rollouts()
    for number in range(20):
        rollouts.append(replace(GOOD, step=1 + 4 * number, **(later if number >= 10 else {})))
    file = load_recipe(ROOT / "recipes" / "ppo.yaml", [f"guards.{name}.{setting}"])
    common = resolve(file.recipe), file
    evaluations = [HeldOut(10 * (i + 1), score, 0.01, i * 0.1) for i, score in enumerate(held_out)]
    (guard,) = (one for one in load_guards() if one.name == name)
    at: AtDistance | AtRollout = AtRollout(*common, rollouts, [], evaluations, 0.5)
    if name == "far_from_reference":
        distances = [Distance(one.step, one.kl, 0.0, one.length, one.kl_error) for one in rollouts.last]
        at = AtDistance(*common, distances, 6.0 if "target" in setting else None)
    (result,) = run_checks((guard,), at, method="ppo", ignore={})
    assert result.verdict in ("found", "passed"), result.reason
    return any(finding.severity == "error" or name != "far_from_reference" for finding in result.findings)


@pytest.mark.parametrize(
    ("name", "found", "silent", "later"),
    [
        ("far_from_reference", "limit=100", "limit=120", {"kl": 110.0}),
        ("far_from_reference", "limit=100", "limit=120", {"kl": 220.0, "length": 200.0}),
        ("far_from_reference", "target_factor=3", "target_factor=4", {"kl": 20.0}),
        ("rewards_all_alike", "deviation=0.1", "deviation=0.01", {"deviation": 0.05}),
        ("answers_repeat", "unique_words=0.5", "unique_words=0.3", {"unique_words": 0.4, "score": 2.0}),
        ("length_runs_away", "ended=0.5", "ended=0.2", {"ended": 0.4}),
        ("entropy_collapses", "entropy=0.1", "entropy=0.01", {"entropy": 0.05}),
        ("reward_models_disagree", "factor=2", "factor=4", {"disagreement": 0.3}),
        ("reward_without_gain", "kl=10", "kl=30", {"kl": 20.0}),
    ],
)
def test_the_thresholds_of_what_a_policy_does(
    name: str, found: str, silent: str, later: dict[str, Any]
) -> None:
    assert ask(name, found, later)
    assert not ask(name, silent, later)


def test_a_distance_is_told_before_it_is_too_far() -> None:
    file = load_recipe(ROOT / "recipes" / "dpo.yaml", ["guards.far_from_reference.warn_at=30"])
    (guard,) = (one for one in load_guards() if one.name == "far_from_reference")
    told = []
    for kl, narrowed in ((29.0, 0.0), (31.0, 0.0), (101.0, 20.0), (101.0, 96.0)):
        at = AtDistance(resolve(file.recipe), file, [Distance(5, kl, narrowed, 20.0)], None)
        (result,) = run_checks((guard,), at, method="dpo", ignore={})
        told.append([finding.severity for finding in result.findings])
    assert told == [[], ["info"], ["error"], []]


def test_how_often_held_out_prompts_have_to_lose() -> None:
    falling = (1.0, 2.0, 1.5, 1.0)
    assert ask("reward_without_gain", "evaluations=2", {}, falling)
    assert not ask("reward_without_gain", "evaluations=3", {}, falling)


def test_what_is_healthy_is_told_from_what_is_not() -> None:
    # Learnt and solved: every answer is as good as the best ones were.
    solved = {"score": 3.0, "high": 3.0, "deviation": 0.01, "entropy": 0.01}
    assert not ask("entropy_collapses", "entropy=0.1", solved)
    assert not ask("rewards_all_alike", "deviation=0.1", solved)
    # Repetition that does not pay, and a distance that does.
    assert not ask("answers_repeat", "unique_words=0.5", {"unique_words": 0.2, "score": 0.5})
    assert not ask("reward_without_gain", "kl=10", {"kl": 20.0, "score": 2.0})
    # Longer answers that end, and long texts whose words have to come again.
    assert not ask("length_runs_away", "ended=0.5", {"length": 500.0})
    words = [f"{letter}{number}" for letter in "abcd" for number in range(10)]
    assert share_unique(" ".join(words * 10)) == pytest.approx(0.8)
