"""The published JSON Schema accepts what a recipe may say, and marks what it may not."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from ftrun.schemas.methods.sft import Recipe

ROOT = Path(__file__).parents[2]
SCHEMA: dict[str, Any] = json.loads(
    (ROOT / "schemas" / "ftrun" / "schemas" / "recipe.schema.json").read_text("utf-8")
)
GOOD: dict[str, Any] = {
    "name": "polite-support",
    "method": "sft",
    "model": {"path": "tiny", "dtype": "auto", "lora": {"r": 16, "target_modules": "all-linear"}},
    "data": {
        "train": [{"path": "rows.jsonl", "columns": {"prompt": "question"}, "weight": 2}],
        "eval": {"fraction": 0.05},
        "loss_on": "completion",
    },
    "training": {
        "learning_rate": 2e-5,
        "lr_scheduler_type": "cosine",
        "num_train_epochs": 1,
        "max_length": None,
    },
    "preflight": {"fail_on": "error", "ignore": {"DATA007": "toy data repeats on purpose"}},
    "evaluation": {"exact_match": 100},
    "tracking": {"experiment": "polite-support", "tags": {"team": "support"}},
    "output": "runs",
}


def is_valid(recipe: Any) -> bool:
    return not list(Draft202012Validator(SCHEMA).iter_errors(recipe))


def changed(path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    """GOOD with one value set."""
    recipe = copy.deepcopy(GOOD)
    section: Any = recipe
    for part in path[:-1]:
        section = section[part]
    section[path[-1]] = value
    return recipe


def without(*path: str) -> dict[str, Any]:
    recipe = copy.deepcopy(GOOD)
    section = recipe
    for part in path[:-1]:
        section = section[part]
    del section[path[-1]]
    return recipe


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_a_good_recipe_passes_the_schema_and_the_model() -> None:
    assert is_valid(GOOD)
    Recipe.model_validate(GOOD)


def test_sections_that_may_be_left_out_can_be() -> None:
    assert is_valid({key: GOOD[key] for key in ("name", "method", "model", "data")})
    assert is_valid(changed(("model", "lora"), None))


@pytest.mark.parametrize(
    "recipe",
    [
        {"extends": "base.yaml"},
        {"extends": ["base.yaml", "lora.yaml"], "training": {"learning_rate": 1e-4}},
        {"extends": "base.yaml", "method": "sft", "model": {"lora": {"r": 8}}, "data": {"loss_on": "all"}},
    ],
)
def test_a_recipe_that_extends_another_may_leave_out_required_keys(recipe: object) -> None:
    assert is_valid(recipe)


@pytest.mark.parametrize(
    "path", [("name",), ("method",), ("model",), ("data",), ("model", "path"), ("data", "train")]
)
def test_required_keys_are_required_where_nothing_is_extended(path: tuple[str, ...]) -> None:
    recipe = without(*path)
    assert not is_valid(recipe)
    assert is_valid({"extends": "base.yaml", **recipe})


@pytest.mark.parametrize(
    "path",
    [
        ("modle",),
        ("model", "revison"),
        ("model", "lora", "rank"),
        ("data", "lose_on"),
        ("data", "train", 0, "colums"),
        ("data", "eval", "fracton"),
        ("training", "learnin_rate"),
        ("preflight", "fail"),
        ("preflight", "ignore", "data7"),
        ("evaluation", "exact"),
        ("tracking", "url"),
    ],
)
def test_a_misspelt_key_is_marked_at_every_depth(path: tuple[str | int, ...]) -> None:
    assert not is_valid(changed(path, "x"))
    assert not is_valid({"extends": "base.yaml", **changed(path, "x")})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("method",), "grpo"),
        (("model", "dtype"), "fp32"),
        (("training", "lr_scheduler_type"), "cosin"),
        (("training", "learning_rate"), "2e-5"),
        (("training", "per_device_train_batch_size"), 0),
        (("training", "output_dir"), "here"),
        (("model", "lora", "task_type"), "CAUSAL_LM"),
        (("model", "lora", "init_lora_weights"), "eva"),
        (("data", "train"), []),
        (("data", "train"), [{"split": "train"}]),
        (("extends",), 3),
    ],
)
def test_a_bad_value_or_a_refused_key_is_marked(path: tuple[str | int, ...], value: object) -> None:
    assert not is_valid(changed(path, value))


def walk_places(section: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every property of every object in the schema that describes a section."""
    if isinstance(section, dict):
        if section.get("additionalProperties") is False:
            yield from section.get("properties", {}).items()
        for part in section.values():
            yield from walk_places(part)


def test_every_key_says_in_an_editor_what_it_does() -> None:
    places = list(walk_places(SCHEMA))
    assert len(places) > 100
    assert [name for name, place in places if not place.get("description")] == []


def test_the_schema_and_the_model_know_the_same_sections() -> None:
    assert SCHEMA["$defs"]["sft"]["properties"].keys() - {"extends"} == Recipe.model_fields.keys()
    with pytest.raises(ValidationError):
        Recipe.model_validate(changed(("modle",), "x"))
