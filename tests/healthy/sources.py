"""Where rows come from, and how recipes are put together."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import yaml
from tests.healthy.worlds import chats, healthy, pairs_of_text, sft

from ftrun.checks.testing import World

Rows = list[dict[str, Any]]


def _sourced(folder: Path, seed: int, *sources: dict[str, Any]) -> World:
    world = sft(folder, seed, pairs_of_text(seed))
    folder.mkdir(parents=True, exist_ok=True)
    world.recipe["data"]["train"] = list(sources)
    return world


def _write_lines(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _write_csv(path: Path, rows: Rows) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


@healthy
def csv_source(folder: Path, seed: int) -> World:
    world = _sourced(folder, seed, {"path": "rows.csv"})
    _write_csv(folder / "rows.csv", world.rows)
    return world


@healthy
def csv_with_columns_mapped(folder: Path, seed: int) -> World:
    columns = {"prompt": "Question", "completion": "Answer"}
    world = _sourced(folder, seed, {"path": "rows.csv", "columns": columns})
    rows = [
        {"n": i, "Question": row["prompt"], "Answer": row["completion"]} for i, row in enumerate(world.rows)
    ]
    _write_csv(folder / "rows.csv", rows)
    return world


@healthy
def json_array(folder: Path, seed: int) -> World:
    world = _sourced(folder, seed, {"path": "rows.json"})
    (folder / "rows.json").write_text(json.dumps(world.rows, indent=1), encoding="utf-8")
    return world


@healthy
def parquet_source(folder: Path, seed: int) -> World:
    from datasets import Dataset

    world = _sourced(folder, seed, {"path": "rows.parquet"})
    Dataset.from_list(world.rows).to_parquet(folder / "rows.parquet")
    return world


@healthy
def parquet_of_chats(folder: Path, seed: int) -> World:
    from datasets import Dataset

    world = _sourced(folder, seed, {"path": "rows.parquet"})
    Dataset.from_list(chats(seed, system="You know the house.")).to_parquet(folder / "rows.parquet")
    return world


@healthy
def arrow_source(folder: Path, seed: int) -> World:
    """A folder as `datasets` saves it."""
    from datasets import Dataset

    world = _sourced(folder, seed, {"path": "rows"})
    Dataset.from_list(world.rows).save_to_disk(folder / "rows")
    return world


@healthy
def folder_of_files(folder: Path, seed: int) -> World:
    world = _sourced(folder, seed, {"path": "rows"})
    _write_lines(folder / "rows" / "a.jsonl", world.rows[:20])
    _write_lines(folder / "rows" / "b.jsonl", world.rows[20:])
    return world


@healthy
def weighted_sources(folder: Path, seed: int) -> World:
    """One source is seen three times, of another one half is."""
    world = _sourced(folder, seed, {"path": "a.jsonl", "weight": 3}, {"path": "b.jsonl", "weight": 0.5})
    _write_lines(folder / "a.jsonl", world.rows[:8])
    _write_lines(folder / "b.jsonl", world.rows[8:])
    return world


@healthy
def weights_with_evaluation(folder: Path, seed: int) -> World:
    """Rows are held out before they are repeated."""
    world = _sourced(folder, seed, {"path": "train.jsonl", "weight": 2.5})
    world.recipe["data"]["eval"] = {"fraction": 0.25}
    world.recipe["training"]["eval_strategy"] = "epoch"
    return world


@healthy
def formats_together(folder: Path, seed: int) -> World:
    """Plain answers, conversations and text in one run."""
    sources = [{"path": f"{name}.jsonl"} for name in ("train", "chats", "text")]
    world = _sourced(folder, seed, *sources)
    _write_lines(folder / "chats.jsonl", chats(seed + 1))
    _write_lines(folder / "text.jsonl", [{"text": row["prompt"]} for row in pairs_of_text(seed + 2)])
    return world


@healthy
def sources_that_share_prompts(folder: Path, seed: int) -> World:
    """Two teams answered the same questions."""
    world = _sourced(folder, seed, {"path": "train.jsonl"}, {"path": "more.jsonl"})
    _write_lines(
        folder / "more.jsonl",
        [{**row, "completion": f"I would say: {row['completion']}"} for row in world.rows],
    )
    world.recipe["data"]["eval"] = {"fraction": 0.25}
    world.recipe["training"]["eval_strategy"] = "epoch"
    return world


@healthy
def evaluation_of_its_own(folder: Path, seed: int) -> World:
    world = _sourced(folder, seed, {"path": "train.jsonl"})
    world.eval_rows = pairs_of_text(seed + 1000, 12)
    world.recipe["data"]["eval"] = [{"path": "eval.jsonl"}]
    world.recipe["training"]["eval_strategy"] = "epoch"
    return world


@healthy
def metadata_beside_text(folder: Path, seed: int) -> World:
    """Columns beside plain text whose names are those of answers, with other things in them."""
    world = _sourced(folder, seed, {"path": "train.jsonl"})
    draw = random.Random(seed)
    world.rows = [
        {"text": row["prompt"] + row["completion"], "answer": row["completion"], "label": draw.randint(0, 3)}
        for row in world.rows
    ]
    return world


@healthy
def recipe_that_extends(folder: Path, seed: int) -> World:
    """Model and settings come from a base recipe, and `--set` changes one of them."""
    world = _sourced(folder, seed, {"path": "train.jsonl"})
    base = {key: world.recipe.pop(key) for key in ("model", "training", "output")}
    base["training"]["learning_rate"] = 1e-4
    (folder / "base.yaml").write_text(yaml.safe_dump(base), encoding="utf-8")
    world.recipe |= {"extends": "base.yaml", "training": {"num_train_epochs": 3}}
    world.sets = ["training.learning_rate=2e-5", f"training.seed={seed}"]
    return world


@healthy
def comments_and_byte_order_marks(folder: Path, seed: int) -> World:
    """Files as editors on other systems write them."""
    world = _sourced(folder, seed, {"path": "rows.jsonl"})
    lines = "".join(json.dumps(row) + "\r\n" for row in world.rows)
    (folder / "rows.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    world.recipe_text = f"# A trial.\n\n{yaml.safe_dump(world.recipe, sort_keys=False)}\n# end\n"
    return world
