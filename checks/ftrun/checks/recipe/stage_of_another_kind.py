"""A stage takes the model of a stage that makes another kind of model.

Symptom: answers are paid by a language model with a new head, which knows nothing; or a policy starts from a reward
model, whose language head is gone.
Cause: the name of another stage behind `stage:`.
Fix: name the stage that makes what is wanted: a `reward` stage under `reward.models`, any other under `model.path`.
Prevention: call stages by what they make.
Source: principle: a reward model gives a score to a text, a language model gives words; neither can stand for the
other. A value model may start from either.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtRecipe

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("REC019", title="stages take the kind of model that they need")
def stage_of_another_kind(at: AtRecipe) -> Iterator[Finding]:
    """Compare what each key needs with the method of the stage that it names."""
    if at.course is None:
        raise NotApplicable("the recipe is no stage of a pipeline")
    methods = {stage.name: stage.file.recipe.method for stage in at.course.pipeline.stages}
    for key, name in at.course.inputs.items():
        makes_scores = methods[name] == "reward"
        needs_scores = key.startswith("reward.models")
        if key != "value.path" and at.recipe.method != "reward" and makes_scores != needs_scores:
            yield Finding(
                message=f"{key} is stage:{name}, which is a stage of method {methods[name]} and makes "
                + ("a reward model" if makes_scores else "a language model")
                + (", and no language model." if makes_scores else ", and no reward model."),
                fix=f"Name a stage of method {'reward' if needs_scores else 'sft or dpo'} under {key}.",
                where=at.where(key),
            )


@stage_of_another_kind.fault
def answers_are_paid_by_the_tuned_model(world: World) -> None:
    _put_behind(world, "sft", {"reward.models": ["stage:first"]})


@stage_of_another_kind.fault
def the_policy_is_the_reward_model(world: World) -> None:
    _put_behind(world, "reward", {"model.path": "stage:first"})


def _put_behind(world: World, method: str, keys: dict[str, object]) -> None:
    """Make a PPO run the second stage of a pipeline, with keys that name the first one."""
    from dataclasses import replace

    import yaml

    from ftrun.checks.course import Course
    from ftrun.checks.testing import ppo_full, reward_full, sft_full
    from ftrun.schemas.pipeline import load_pipeline

    first = (reward_full if method == "reward" else sft_full)(world.folder)
    second = ppo_full(world.folder)

    def plant(at: AtRecipe) -> AtRecipe:
        stages = {"first": {"recipe": "first.yaml"}, "second": {"recipe": "recipe.yaml", "set": keys}}
        for name, content in (
            ("first.yaml", first.recipe),
            ("pipeline.yaml", {"name": "two", "stages": stages}),
        ):
            (world.folder / name).write_text(yaml.safe_dump(content), encoding="utf-8")
        return replace(at, course=Course(load_pipeline(world.folder / "pipeline.yaml"), "second"))

    world.recipe, world.rows = second.recipe, second.rows
    world.after(AtRecipe, plant)
