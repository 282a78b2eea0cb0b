"""A prompt and its response are longer together than the model has positions for.

Symptom: an index error in the middle of a rollout, or answers that turn to noise towards their end.
Cause: training.response_length leaves less room than the longest prompt takes.
Fix: lower `training.response_length`, or leave out the longest prompts with `training.max_prompt_length`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.limits import longest_input
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

KEY = "training.max_prompt_length"


@check("PPO003", title="prompts fit into the model with their responses", methods=("ppo",))
def response_beyond_context(at: AtData) -> Iterator[Finding]:
    """Compare the longest prompt and response with what the configuration says that the model takes."""
    import numpy as np

    limit, response = longest_input(at.model_config), int(at.recipe.training["response_length"])
    if limit is None:
        raise NotApplicable("the model's configuration states no longest input")
    if response >= limit:
        yield Finding(
            f"training.response_length is {response}, and {at.recipe.model.path} has positions for {limit} "
            "tokens in all.",
            "Lower training.response_length.",
            at.where("training.response_length"),
        )
        return
    for rows in (at.train, at.eval):
        if rows is None:
            continue
        longer = np.flatnonzero(rows.lengths + response > limit)
        if len(longer):
            longest = int(np.argmax(rows.lengths))
            yield Finding(
                f"{len(longer)} of {len(rows)} prompts are longer than {limit - response} tokens, so that with "
                f"responses of {response} they do not fit into the {limit} positions of {at.recipe.model.path}; "
                f"the longest has {rows.lengths[longest]}.",
                f"Set {KEY} to {limit - response}, which leaves them out, or lower training.response_length.",
                at.where(KEY),
                evidence=(str(rows[longest].where),),
                patch=Patch(KEY, limit - response),
            )


@response_beyond_context.fault
def a_prompt_that_leaves_no_room(world: World) -> None:
    """One document among questions."""
    world.rows[7]["prompt"] = "What colour is the lamp in the next room? " * 300


@response_beyond_context.fault
def a_response_longer_than_the_model(world: World) -> None:
    """4,096 tokens from a model of 2,048."""
    world.recipe["training"]["response_length"] = 4096
