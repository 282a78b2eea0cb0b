"""A reward model, a reward function or the value model is not where the recipe says.

Symptom: the run ends when the model is built, after the data has been prepared; in a pipeline after hours of other
stages.
Cause: a misspelt path, one that is relative to where the command runs, or a function of another name.
Fix: write the path that the message proposes; paths are relative to the recipe.
Prevention: name the models of earlier runs as `run:NAME`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.paths import kind_of, located, suggest_path
from ftrun.checks.stages import AtRecipe

if TYPE_CHECKING:
    from ftrun.checks.testing import World

HUB_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")
ELSEWHERE = ("run:", "stage:")


@check("PPO011", title="what scores the answers is there", methods=("ppo",))
def reward_source_missing(at: AtRecipe) -> Iterator[Finding]:
    """Look for the models and files that `reward` and `value` name; nothing is imported."""
    recipe: Any = at.recipe
    models = [(f"reward.models.{i}", path) for i, path in enumerate(recipe.reward.models)]
    if recipe.value.path not in ("policy", "reward"):
        models.append(("value.path", recipe.value.path))
    elif recipe.value.path == "reward" and not models:
        yield Finding(
            "value.path is reward, and reward.models names no model.",
            "Name the reward model, or set value.path to policy.",
            at.where("value.path"),
        )
    if not recipe.reward.models and not recipe.reward.functions:
        yield Finding(
            "reward names no model and no function: rules alone score the answers, and they say nothing of what is "
            "wanted.",
            "Name a reward model under reward.models, or a function under reward.functions.",
            at.where("reward"),
            severity="warning",
        )
    for key, path in models:
        if path != "tiny" and not path.startswith(ELSEWHERE):
            yield from _judge_model(at, key, path)
    for i, name in enumerate(recipe.reward.functions):
        yield from _judge_function(at, f"reward.functions.{i}", name)


def _judge_model(at: AtRecipe, key: str, path: str) -> Iterator[Finding]:
    local = located(path, at.file.folder)
    if kind_of(local) == "folder":
        return
    if kind_of(local) == "file" or path.startswith((".", "/", "~")) or HUB_ID.fullmatch(path) is None:
        yield Finding(
            f"{key} {path} is no folder (looked for {local}), and no id of the hub.",
            suggest_path(path, at.file.folder),
            at.where(key),
        )


def _judge_function(at: AtRecipe, key: str, name: str) -> Iterator[Finding]:
    place, _, function = name.rpartition(":")
    if Path(place).suffix != ".py":
        return
    path = located(place, at.file.folder)
    if kind_of(path) != "file":
        yield Finding(
            f"{key} {place} is not there (looked for {path}).",
            suggest_path(place, at.file.folder),
            at.where(key),
        )
        return
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, OSError) as error:
        yield Finding(f"{key} {place} cannot be read as Python: {error}.", "Correct the file.", at.where(key))
        return
    names = list(_names(tree))
    if function not in names and "*" not in names:
        known = ", ".join(names[:5]) or "nothing"
        yield Finding(
            f"{key}: {place} defines no {function}; it defines {known}.",
            "Write the name of the function behind the colon.",
            at.where(key),
        )


def _names(tree: ast.Module) -> Iterator[str]:
    """The names that a file may define when it is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            yield from (one.id for one in node.targets if isinstance(one, ast.Name))


@reward_source_missing.fault
def a_reward_model_that_is_not_there(world: World) -> None:
    world.recipe["reward"]["models"] = ["./models/reward"]


@reward_source_missing.fault
def a_file_of_another_name(world: World) -> None:
    world.recipe["reward"]["functions"] = ["reward.py:share_of_letters"]


@reward_source_missing.fault
def a_function_of_another_name(world: World) -> None:
    world.recipe["reward"]["functions"] = ["rewards.py:share_of_letter"]


@reward_source_missing.fault
def nothing_says_what_is_wanted(world: World) -> None:
    world.recipe["reward"]["functions"] = []


@reward_source_missing.fault
def a_value_model_from_no_reward_model(world: World) -> None:
    world.recipe["value"] = {"path": "reward"}
