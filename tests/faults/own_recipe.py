"""Faults of ours: settings, sources and pipelines."""

from __future__ import annotations

import json
from typing import Any

import yaml
from tests.faults.materials import ANSWER, ASK, SYSTEM
from tests.faults.outcomes import PIPELINE
from tests.faults.plants import Fault

from ftrun.checks.testing import World, dpo_full, sft_chat, sft_full

OURS = "ours"
NO_PIPELINES = "TRL has no pipelines"

X131 = Fault(
    "X131",
    "A batch is larger than the data, and incomplete batches are dropped: there is no batch.",
    "all",
    "data",
    OURS,
)


@X131.planted(sft_full, dpo_full, told="TRAIN012", at="step")
def no_batch_is_full(world: World) -> None:
    world.recipe["training"] |= {"per_device_train_batch_size": 64, "dataloader_drop_last": True}


X132 = Fault("X132", "A source has so low a weight that none of its rows is used.", "all", "data", OURS)


@X132.planted(sft_full, told="DATA013", at="data", trl="TRL weighs no sources")
def a_weight_of_a_thousandth(world: World) -> None:
    (world.folder / "more.jsonl").write_text(
        "".join(json.dumps({**row, "prompt": f"Again: {row['prompt']}"}) + "\n" for row in world.rows),
        encoding="utf-8",
    )
    world.recipe["data"]["train"].append({"path": "more.jsonl", "weight": 0.001})


X133 = Fault("X133", "The schedule climbs far above the learning rate.", "all", "model", OURS)


@X133.planted(sft_full, told="TRAIN038", at="model")
def the_least_rate_is_one(world: World) -> None:
    world.recipe["training"] |= {
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr": 1.0},
    }


X134 = Fault(
    "X134",
    "Plain gradient descent has a learning rate of AdamW's, with which it does not move.",
    "all",
    "recipe",
    OURS,
)


@X134.planted(sft_full, dpo_full, told="TRAIN001", at="recipe")
def descent_at_the_rate_of_adamw(world: World) -> None:
    world.recipe["training"]["optim"] = "sgd"


X135 = Fault(
    "X135",
    "Gradients are accumulated over more batches than there are: the run is one step.",
    "all",
    "data",
    OURS,
)


@X135.planted(sft_full, told="TRAIN042", at="data")
def an_accumulation_of_the_whole_run(world: World) -> None:
    world.recipe["training"]["gradient_accumulation_steps"] = 512


X136 = Fault("X136", "Labels are smoothed so much that guessing is best.", "sft", "recipe", OURS)


@X136.planted(sft_full, told="REC009", at="recipe")
def nine_tenths_of_a_label_are_spread(world: World) -> None:
    world.recipe["training"]["label_smoothing_factor"] = 0.95


X137 = Fault("X137", "A stage takes the model of a stage that comes after it.", "all", "recipe", OURS)


@X137.planted(sft_full, told="REC015", at="recipe", trl=NO_PIPELINES)
def stages_in_the_wrong_order(world: World) -> None:
    write_pipeline(world, {"first": {"model.path": "stage:second"}, "second": {}})


X138 = Fault(
    "X138",
    "A later stage uses another chat template than the one that its model was tuned with.",
    "all",
    "data",
    OURS,
)


@X138.planted(sft_chat, told="MODEL033", at="data", trl=NO_PIPELINES)
def the_second_stage_speaks_otherwise(world: World) -> None:
    (world.folder / "other.jinja").write_text(
        (SYSTEM + ANSWER + ASK)
        .replace("<|im_start|>' + m.role", "<|im_start|>## ' + m.role")
        .replace("<|im_start|>assistant", "<|im_start|>## assistant"),
        encoding="utf-8",
    )
    write_pipeline(
        world, {"first": {}, "second": {"model.path": "stage:first", "model.chat_template": "other.jinja"}}
    )


X139 = Fault("X139", "A stage trains a model that no later stage takes.", "all", "recipe", OURS)


@X139.planted(sft_full, told=(), trl=NO_PIPELINES)
def the_first_stage_is_for_nothing(world: World) -> None:
    write_pipeline(world, {"first": {}, "second": {"training.seed": 8}})


def write_pipeline(world: World, stages: dict[str, dict[str, Any]]) -> None:
    """A pipeline whose stages are the world's recipe, each with keys set in it."""
    pipeline = {
        "name": "two",
        "output": str(world.folder / "runs"),
        "stages": {name: {"recipe": "recipe.yaml", "set": keys} for name, keys in stages.items()},
    }
    (world.folder / PIPELINE).write_text(yaml.safe_dump(pipeline, sort_keys=False), encoding="utf-8")
