"""The same reward model is named twice.

Symptom: the ensemble is as easily fooled as one model, and its disagreement is 0.
Cause: a path that was copied and not changed.
Fix: name another reward model, or one alone.
Source: an ensemble helps by where its members differ (Coste 2023, arXiv 2310.02743); copies agree everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.paths import kind_of, located
from ftrun.checks.stages import AtRecipe

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("PPO018", title="reward models are different ones", severity="warning", methods=("ppo",))
def reward_model_twice(at: AtRecipe) -> Iterator[Finding]:
    """Tell each path that names what an earlier one names."""
    recipe: Any = at.recipe
    if len(recipe.reward.models) < 2:
        raise NotApplicable("there is one reward model, or none")
    seen: set[str] = set()
    for i, written in enumerate(recipe.reward.models):
        folder = located(written, at.file.folder)
        place = str(folder.resolve()) if kind_of(folder) == "folder" else written
        if place in seen:
            yield Finding(
                f"reward.models names {written} twice: the ensemble has no second opinion of it.",
                "Name another reward model, or remove this one.",
                at.where(f"reward.models.{i}"),
            )
        seen.add(place)


@reward_model_twice.fault
def a_path_was_copied(world: World) -> None:
    world.recipe["reward"]["models"] = ["some-team/some-reward", "some-team/some-reward"]
