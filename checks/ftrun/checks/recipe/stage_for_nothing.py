"""A stage trains a model that no later stage takes, and a later one starts where it should have ended.

Symptom: DPO or PPO begins with a model that cannot answer, although a stage before it was tuned to; a reward model
was trained and answers are paid by something else.
Cause: `model.path: stage:NAME` or `reward.models: [stage:NAME]` is missing in the later stage's `set:`, so that its
recipe's own model, the base, is taken.
Fix: set the key in the later stage.
Prevention: give each stage but the last a stage that takes its model.
Source: the order of Ouyang 2022 (arXiv 2203.02155): PPO, and DPO in its place (arXiv 2305.18290), start from the
model of supervised tuning. Told is a `dpo` or `ppo` stage whose model is that which an earlier `sft` stage starts
from, and a `ppo` stage behind a `reward` stage, where no stage at all takes what the earlier one makes. Two stages of
one method are not judged: they may be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.course import Course
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.paths import located
from ftrun.checks.stages import AtRecipe

if TYPE_CHECKING:
    from ftrun.checks.testing import World
    from ftrun.schemas.load import RecipeFile
    from ftrun.schemas.pipeline import StageFile


@check(
    "REC017",
    title="a stage that others build on is taken by them",
    severity="warning",
    methods=("dpo", "ppo"),
)
def stage_for_nothing(at: AtRecipe) -> Iterator[Finding]:
    """Tell each earlier stage that this one passes by."""
    course = at.course
    if course is None:
        raise NotApplicable("the recipe is no stage of a pipeline")
    taken = {name for stage in course.pipeline.stages for name in stage.inputs.values()}
    own = next(stage for stage in course.pipeline.stages if stage.name == course.stage)
    earlier = course.pipeline.stages[: course.pipeline.stages.index(own)]
    for stage in earlier:
        if stage.name in taken or not _is_passed_by(stage, own):
            continue
        made = stage.file.recipe.method
        key = "reward.models" if made == "reward" else "model.path"
        yield Finding(
            message=f"The stage `{stage.name}` ({made}) trains a model that no stage takes; `{own.name}` comes "
            "after it "
            + (
                "and is paid by something else."
                if made == "reward"
                else f"and starts from the same base, {own.file.recipe.model.path}."
            ),
            fix=f"Set {key} of the stage `{own.name}` to stage:{stage.name}, or remove the stage `{stage.name}`.",
            where=at.where(key),
        )


def _is_passed_by(earlier: StageFile, own: StageFile) -> bool:
    """Whether what an earlier stage makes is what this one should take."""
    if earlier.file.recipe.method == "reward":
        return own.file.recipe.method == "ppo"
    return earlier.file.recipe.method == "sft" and _base(earlier.file) == _base(own.file)


def _base(file: RecipeFile) -> tuple[str, str | None]:
    """The model that a recipe starts from, wherever the recipe lies."""
    folder = located(file.recipe.model.path, file.folder)
    path = str(folder.resolve()) if folder.is_dir() else file.recipe.model.path
    return path, file.recipe.model.revision


@stage_for_nothing.fault
def preferences_start_from_the_base(world: World) -> None:
    """`set: {model.path: stage:sft}` was forgotten."""
    from ftrun.checks.testing import dpo_full, sft_full

    _put_behind(world, sft_full(world.folder), dpo_full(world.folder))


@stage_for_nothing.fault
def answers_are_paid_by_something_else(world: World) -> None:
    """The reward model was trained for nothing."""
    from ftrun.checks.testing import ppo_full, reward_full

    _put_behind(world, reward_full(world.folder), ppo_full(world.folder))


def _put_behind(world: World, first: World, second: World) -> None:
    """Make the world the second stage of a pipeline whose stages know nothing of each other."""
    import yaml

    from ftrun.schemas.pipeline import load_pipeline

    def plant(at: AtRecipe) -> AtRecipe:
        stages = {"first": {"recipe": "first.yaml"}, "second": {"recipe": "recipe.yaml"}}
        for name, content in (
            ("first.yaml", first.recipe),
            ("pipeline.yaml", {"name": "two", "stages": stages}),
        ):
            (world.folder / name).write_text(yaml.safe_dump(content), encoding="utf-8")
        return replace(at, course=Course(load_pipeline(world.folder / "pipeline.yaml"), "second"))

    world.recipe, world.rows = second.recipe, second.rows
    world.after(AtRecipe, plant)
