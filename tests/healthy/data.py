"""Rows of well-known data sets, where `../shared/data` has them; there are no worlds of them elsewhere."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.healthy.preferences import dpo
from tests.healthy.rewards import reward
from tests.healthy.rollouts import ppo
from tests.healthy.worlds import LORA, Healthy, healthy, hold_out, sft

from ftrun.checks.testing import World

DATA = Path(__file__).parents[3] / "shared" / "data"
COUNT = 200
LONG = 3000
"""Characters of a row that the built-in tokenizer still writes in fewer than 2,048 tokens."""

Rows = list[dict[str, Any]]


def _draw(name: str, seed: int, count: int = COUNT) -> Rows:
    """Some rows of a file, chosen by the seed."""
    text = (DATA / name).read_text(encoding="utf-8")
    rows: Rows = (
        json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.splitlines()]
    )
    short = [row for row in rows if len(json.dumps(row)) < LONG]
    return random.Random(seed).sample(short, count)


def school_sums(folder: Path, seed: int) -> World:
    world = sft(folder, seed, _draw("gsm8k-train.jsonl", seed), max_length=1024, num_train_epochs=1)
    world.recipe["data"]["train"][0]["columns"] = {"prompt": "question", "completion": "answer"}
    return hold_out(world, 0.1)


def school_sums_as_text(folder: Path, seed: int) -> World:
    rows = [
        {"text": f"Question: {row['question']}\nAnswer: {row['answer']}"}
        for row in _draw("gsm8k-train.jsonl", seed)
    ]
    return sft(folder, seed, rows, packing=True, max_length=1024, num_train_epochs=1)


def instructions(folder: Path, seed: int) -> World:
    return hold_out(sft(folder, seed, _draw("alpaca_en_demo.json", seed), lora=LORA, max_length=2048), 0.1)


def real_pairs(folder: Path, seed: int) -> World:
    rows = _draw("dpo_en_demo.json", seed, 60)
    return dpo(folder, seed, rows, lora=LORA, max_length=2048, num_train_epochs=1)


def real_pairs_rewarded(folder: Path, seed: int) -> World:
    return reward(folder, seed, _draw("dpo_en_demo.json", seed, 60), max_length=2048, num_train_epochs=1)


def real_prompts(folder: Path, seed: int) -> World:
    rows = [
        {"prompt": f"{row['question']}\n", "answer": row["answer"]}
        for row in _draw("gsm8k-train.jsonl", seed, 64)
    ]
    return ppo(folder, seed, rows)


MAKERS = (school_sums, school_sums_as_text, instructions, real_pairs, real_pairs_rewarded, real_prompts)
real: tuple[Healthy, ...] = tuple(map(healthy, MAKERS)) if DATA.is_dir() else ()
