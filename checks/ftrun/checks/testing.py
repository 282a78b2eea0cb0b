"""Worlds: small, whole, healthy runs in a folder, in which a check's fault can be planted.

A package that brings checks of its own tests them with three functions from here:

    assert_whole(check)                          id, title, documentation and at least one fault
    assert_silent(check, world, climb)           nothing is found in a healthy world
    assert_catches(check, fault, world, climb)   the fault is found by its own check

`climb` is `ftrun.runner.preflight.climb`; it is handed in because checks never import the runner.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ftrun.checks.check import Check, Fault
from ftrun.checks.report import Report

Stage = TypeVar("Stage")
Climb = Callable[..., Report]


@dataclass
class World:
    """A recipe and its rows, as plain data that a fault may edit before anything is built.

    What a file cannot express is planted with `after`: a function that is given a stage as it was built
    and returns the stage to go on with, having damaged the real objects in it.
    """

    folder: Path
    recipe: dict[str, Any]
    rows: list[dict[str, Any]]
    eval_rows: list[dict[str, Any]] | None = None
    recipe_text: str | None = None
    """The recipe file's text, where it is to differ from what `recipe` dumps to."""

    sets: list[str] = field(default_factory=list)
    """What the command line lays over the recipe with `--set`."""

    damages: dict[type, list[Callable[[Any], Any]]] = field(default_factory=dict)

    def after(self, stage: type[Stage], damage: Callable[[Stage], Stage]) -> None:
        """Damage `stage` as soon as it is built."""
        self.damages.setdefault(stage, []).append(damage)

    def write(self) -> Path:
        """Write the files of this world and return the path of its recipe."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _write_rows(self.folder / "train.jsonl", self.rows)
        if self.eval_rows is not None:
            _write_rows(self.folder / "eval.jsonl", self.eval_rows)
        path = self.folder / "recipe.yaml"
        # Not JSON: YAML takes its numbers without a dot, such as 5e-05, for text.
        text = (
            self.recipe_text if self.recipe_text is not None else yaml.safe_dump(self.recipe, sort_keys=False)
        )
        path.write_text(text, encoding="utf-8")
        return path

    def apply(self, stage: Any) -> Any:
        """Pass a built stage through the damages planted for it."""
        for damage in self.damages.get(type(stage), []):
            stage = damage(stage)
        return stage


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _questions(count: int) -> list[tuple[str, str]]:
    things = ("lamp", "chair", "table", "mirror", "carpet", "clock", "shelf", "curtain")
    colours = ("red", "green", "blue", "white", "black", "brown")
    return [
        (
            f"What colour is the {things[i % 8]} in room {i}?",
            f"The {things[i % 8]} in room {i} is {colours[i % 6]}.",
        )
        for i in range(count)
    ]


def _base(folder: Path, **changes: Any) -> World:
    recipe: dict[str, Any] = {
        "name": "healthy",
        "method": "sft",
        "model": {"path": "tiny"},
        "data": {"train": [{"path": "train.jsonl"}]},
        "training": {
            "learning_rate": 5e-05,
            "num_train_epochs": 2,
            "per_device_train_batch_size": 4,
            "warmup_steps": 0.1,
            "max_length": 256,
            "gradient_checkpointing": False,
            "save_strategy": "epoch",
            "seed": 7,
        },
        "output": str(folder / "runs"),
    }
    rows = [{"prompt": f"{question}\n", "completion": answer} for question, answer in _questions(32)]
    world = World(folder=folder, recipe=recipe, rows=rows)
    for section, values in changes.items():
        world.recipe[section] = {**deepcopy(world.recipe.get(section, {})), **values}
    return world


def sft_full(folder: Path) -> World:
    """Prompt and answer, every weight trained."""
    return _base(folder)


def sft_lora(folder: Path) -> World:
    """Prompt and answer, LoRA on every linear layer."""
    lora = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}
    return _base(
        folder,
        model={"path": "tiny", "lora": lora},
        training={**_base(folder).recipe["training"], "learning_rate": 2e-4},
    )


def sft_chat(folder: Path) -> World:
    """Conversations of several turns with a system message; every assistant turn trained; evaluation."""
    world = _base(folder, data={"eval": {"fraction": 0.25}})
    world.recipe["training"]["eval_strategy"] = "epoch"
    questions = _questions(33)
    world.rows = [
        {
            "messages": [
                {"role": "system", "content": "You know every room of the house."},
                {"role": "user", "content": questions[i][0]},
                {"role": "assistant", "content": questions[i][1]},
                {"role": "user", "content": questions[i + 1][0]},
                {"role": "assistant", "content": questions[i + 1][1]},
            ]
        }
        for i in range(32)
    ]
    return world


def sft_packed(folder: Path) -> World:
    """Plain text, packed."""
    world = _base(folder)
    world.recipe["training"] |= {"packing": True, "max_length": 128}
    world.rows = [{"text": f"{question} {answer}"} for question, answer in _questions(32)]
    return world


def _pairs(count: int) -> list[tuple[str, str, str]]:
    """Questions, each with a better answer and a worse one, which is longer or shorter in turn."""
    answers = _questions(count)
    return [
        (
            question,
            answer,
            f"I do not know the colour of things in room {i}." if i % 2 else f"Look at room {i}.",
        )
        for i, (question, answer) in enumerate(answers)
    ]


def dpo_full(folder: Path) -> World:
    """Plain pairs with their prompt, every weight trained."""
    world = _base(folder)
    world.recipe["method"] = "dpo"
    world.rows = [
        {"prompt": f"{question}\n", "chosen": chosen, "rejected": rejected}
        for question, chosen, rejected in _pairs(32)
    ]
    return world


def dpo_lora(folder: Path) -> World:
    """Pairs of whole texts, whose prompt is what they begin with; LoRA, and adapters off for the reference."""
    world = dpo_full(folder)
    world.recipe["model"]["lora"] = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}
    world.recipe["training"]["learning_rate"] = 2e-4
    world.rows = [
        {"chosen": f"{row['prompt']}{row['chosen']}", "rejected": f"{row['prompt']}{row['rejected']}"}
        for row in world.rows
    ]
    return world


def dpo_chat(folder: Path) -> World:
    """Pairs that end conversations of several turns; evaluation."""
    world = dpo_full(folder)
    world.recipe["data"]["eval"] = {"fraction": 0.25}
    world.recipe["training"]["eval_strategy"] = "epoch"
    questions = _questions(33)
    world.rows = [
        {
            "prompt": [
                {"role": "system", "content": "You know every room of the house."},
                {"role": "user", "content": questions[i + 1][0]},
                {"role": "assistant", "content": questions[i + 1][1]},
                {"role": "user", "content": question},
            ],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
        }
        for i, (question, chosen, rejected) in enumerate(_pairs(32))
    ]
    return world


def reward_full(folder: Path) -> World:
    """Plain pairs with their prompt, scored by a model of which every weight is trained."""
    world = dpo_full(folder)
    world.recipe["method"] = "reward"
    return world


def reward_lora(folder: Path) -> World:
    """Pairs of whole texts with margins, without a column for what they begin with; LoRA and a trained head."""
    world = dpo_lora(folder)
    world.recipe["method"] = "reward"
    world.rows = [row | {"margin": 0.1 * (i % 3)} for i, row in enumerate(world.rows)]
    return world


def reward_chat(folder: Path) -> World:
    """Pairs that end conversations of several turns; evaluation."""
    world = dpo_chat(folder)
    world.recipe["method"] = "reward"
    return world


def ppo_full(folder: Path) -> World:
    """Plain prompts, answered for a function and rules, every weight trained."""
    world = _base(folder)
    world.recipe |= {
        "method": "ppo",
        "reward": {"functions": ["rewards.py:share_of_letters"], "penalties": {"too_short": None}},
    }
    training = world.recipe["training"]
    del training["max_length"]
    training |= {"num_mini_batches": 2, "num_ppo_epochs": 2, "response_length": 12}
    world.rows = [{"prompt": f"{question}\n"} for question, _ in _questions(32)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rewards.py").write_text(
        "def share_of_letters(completions):\n"
        "    return [sum(map(str.isalpha, text)) / (len(text) + 1) for text in completions]\n",
        encoding="utf-8",
    )
    return world


def ppo_lora(folder: Path) -> World:
    """LoRA on policy and value model, the reference with adapters off, and an adaptive KL coefficient."""
    world = ppo_full(folder)
    lora = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}
    world.recipe["model"]["lora"] = lora
    world.recipe["value"] = {"lora": lora}
    world.recipe["training"] |= {"learning_rate": 2e-4, "kl_target": 6.0}
    return world


def ppo_chat(folder: Path) -> World:
    """Conversations to answer, with a column that the reward reads; evaluation; gradients accumulated."""
    world = ppo_full(folder)
    world.recipe["data"]["eval"] = {"fraction": 0.25}
    world.recipe["training"] |= {"eval_strategy": "epoch", "gradient_accumulation_steps": 2}
    world.rows = [
        {"prompt": [{"role": "user", "content": question}], "wanted": answer}
        for question, answer in _questions(32)
    ]
    return world


HEALTHY: Mapping[str, tuple[Callable[[Path], World], ...]] = {
    "sft": (sft_full, sft_lora, sft_chat, sft_packed),
    "dpo": (dpo_full, dpo_lora, dpo_chat),
    "reward": (reward_full, reward_lora, reward_chat),
    "ppo": (ppo_full, ppo_lora, ppo_chat),
}
"""The healthy worlds of each method."""


def assert_whole(check: Check) -> None:
    """The check has all that a person may ask of it."""
    assert re.fullmatch(r"[A-Z]{2,6}[0-9]{3}", check.id), f"{check.module}: {check.id} is not an id"
    assert check.name == check.module.rpartition(".")[2], f"{check.id}: its file is named {check.module}"
    assert check.methods, f"{check.id}: is for no method"
    for heading in ("Symptom:", "Cause:", "Fix:"):
        assert heading in check.documentation, f"{check.id}: its docstring has no {heading}"
    assert check.documentation.splitlines()[0].endswith("."), f"{check.id}: its docstring has no title line"
    assert check.title, f"{check.id}: has no title"
    assert check.faults, f"{check.id}: no fault proves it"


def assert_silent(check: Check, world: World, climb: Climb) -> None:
    """Nothing is found in a healthy world."""
    report = climb(world.write(), checks=(check,), sets=world.sets, after=world.apply)
    (result,) = report.results
    assert result.verdict in ("passed", "not_applicable"), (
        f"{check.id} cries wolf: {result.findings}{result.reason}"
    )


def assert_catches(check: Check, fault: Fault, world: World, climb: Climb) -> None:
    """The fault is found by the check that documents it, with something to do about it."""
    fault(world)
    report = climb(world.write(), checks=(check,), sets=world.sets, after=world.apply)
    (result,) = report.results
    assert result.verdict == "found", f"{check.id} misses {fault.__name__}: {result.verdict} {result.reason}"
    assert all(finding.message and finding.fix for finding in result.findings)
