"""The model's folder or chat template is not there.

Symptom: an OSError about a missing `config.json`, or a request to the hub for a repository that nobody has.
Cause: a misspelt path, one that is relative to where the command runs, or a folder that holds no model
(checkpoints one level down, say).
Fix: write the path that the message proposes; paths are relative to the recipe.
Prevention: name the model of an earlier run as `run:NAME`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.paths import kind_of, located, nearest_path, suggest_path
from ftrun.checks.stages import AtRecipe

if TYPE_CHECKING:
    from ftrun.checks.testing import World

# What the hub accepts as the id of a repository: a name, or an owner and a name.
HUB_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")
NAMED = ("run:", "stage:")
TEMPLATE_ENDINGS = (".jinja", ".jinja2", ".j2", ".txt")


@check("MODEL007", title="the model's folder and chat template are there")
def model_path_missing(at: AtRecipe) -> Iterator[Finding]:
    """Tell a `model.path`, `model.reference` or `model.chat_template` that reads as a path and leads nowhere."""
    for name in ("path", "reference"):  # DPO's recipes have both
        path = getattr(at.recipe.model, name, None)
        if path is not None and path != "tiny" and not path.startswith(NAMED):
            yield from _judge_model(at, path, f"model.{name}")
    if at.recipe.model.chat_template is not None:
        yield from _judge_template(at, at.recipe.model.chat_template)


def _judge_model(at: AtRecipe, path: str, key: str) -> Iterator[Finding]:
    where, folder = at.where(key), at.file.folder
    local = located(path, folder)
    if kind_of(local) == "folder":
        if kind_of(local / "config.json") is None and kind_of(local / "adapter_config.json") is None:
            yield Finding(f"{key} {path} is a folder without a config.json.", _folder_fix(local, path), where)
    elif kind_of(local) == "file":
        fix = "Name the folder that holds config.json, the weights and the tokenizer."
        yield Finding(f"{key} {path} is a file, and a model is a folder.", fix, where)
    elif path.startswith((".", "/", "~")) or HUB_ID.fullmatch(path) is None:
        message = f"{key} {path} is no folder (looked for {local}), and no id of the hub."
        yield Finding(message, suggest_path(path, folder), where)
    elif kind_of(Path(path)) == "folder":  # which transformers takes for it, whatever the hub has
        message = f"{key} {path} is no folder beside the recipe, and there is one where the command runs."
        meant = Path(os.path.relpath(path, folder)).as_posix()
        fix = f"Paths are relative to the recipe: write `{meant}`, or run elsewhere if you mean the hub."
        yield Finding(message, fix, where)
    elif "/" in path and (near := nearest_path(path, folder)) and _begins_here(path, folder):
        message = f"{key} {path} is no folder here, and would be asked of the hub."
        yield Finding(message, f"If you mean `{near}`, write that.", where, severity="warning")


def _begins_here(path: str, folder: Path) -> bool:
    return kind_of(folder / path.split("/")[0]) == "folder"


def _folder_fix(local: Path, path: str) -> str:
    inside = sorted(one.parent.name for one in local.glob("*/config.json"))
    if inside:
        return f"Did you mean `{Path(path, inside[-1]).as_posix()}`?"
    return "Name the folder that holds config.json, the weights and the tokenizer."


def _judge_template(at: AtRecipe, template: str) -> Iterator[Finding]:
    where, folder = at.where("model.chat_template"), at.file.folder
    if "{%" in template or "{{" in template:
        message = "model.chat_template holds the text of a template."
        yield Finding(
            message, "Put the text into a file beside the recipe, and write the file's name.", where
        )
    elif _reads_as_file(template) and kind_of(located(template, folder)) != "file":
        message = f"model.chat_template {template} is not there (looked for {located(template, folder)})."
        yield Finding(message, suggest_path(template, folder), where)


def _reads_as_file(template: str) -> bool:
    return "/" in template or template.startswith((".", "~")) or template.endswith(TEMPLATE_ENDINGS)


@model_path_missing.fault
def a_folder_that_is_not_there(world: World) -> None:
    """The model was never downloaded, or lies elsewhere."""
    world.recipe["model"]["path"] = "./models/base"


@model_path_missing.fault
def a_folder_of_checkpoints(world: World) -> None:
    """The model is one level down."""
    (world.folder / "checkpoints" / "checkpoint-8").mkdir(parents=True)
    (world.folder / "checkpoints" / "checkpoint-8" / "config.json").write_text("{}", encoding="utf-8")
    world.recipe["model"]["path"] = "checkpoints"


@model_path_missing.fault
def a_misspelt_folder_that_reads_as_an_id(world: World) -> None:
    """One `/`: without the look beside the recipe it is an id of the hub."""
    (world.folder / "models" / "polite").mkdir(parents=True)
    world.recipe["model"]["path"] = "models/plite"


@model_path_missing.fault
def a_template_file_that_is_not_there(world: World) -> None:
    """The template did not come with the recipe."""
    world.recipe["model"]["chat_template"] = "chat.jinja"


@model_path_missing.fault
def a_template_as_text(world: World) -> None:
    """The template itself, where its file belongs."""
    world.recipe["model"]["chat_template"] = "{% for message in messages %}{{ message.content }}{% endfor %}"
