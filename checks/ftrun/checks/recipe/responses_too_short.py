"""Responses are cut off before they can be answers.

Symptom: every response is scored alike, or none ends; the policy learns nothing but to be cut off.
Cause: `training.response_length` counts tokens, and leaves room for fewer words than the reward asks for, or for hardly
more than the end of the text, which is a token too; `training.min_response_length` keeps every answer from ending; or
the penalties leave no length that is not penalised.
Fix: raise `training.response_length` to what a whole answer takes, or lower `reward.penalties.too_short`.
Prevention: look at the table of answers after the first evaluation: most of them should end on their own.
Source: a word takes at least one token. A response of 3 tokens holds two and the end of the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtRecipe
from ftrun.schemas.methods.ppo import Recipe

if TYPE_CHECKING:
    from ftrun.checks.testing import World

KEY = "training.response_length"
LEAST = 4
"""Tokens below which a response is hardly one."""


@check("PPO014", title="responses are long enough to be answers", severity="warning", methods=("ppo",))
def responses_too_short(at: AtRecipe) -> Iterator[Finding]:
    """Tell a length that leaves no room for an answer, or none that is not penalised."""
    penalties = cast(Recipe, at.recipe).reward.penalties
    length, least = int(at.recipe.training["response_length"]), at.recipe.training["min_response_length"]
    short = None if penalties is None else penalties.too_short
    long = None if penalties is None else penalties.too_long
    if length > 1 and least is not None and least >= length:
        yield Finding(
            f"training.min_response_length is {least} and {KEY} is {length}: no response can end on its own.",
            f"Set training.min_response_length well below {KEY}, or leave it out.",
            at.where("training.min_response_length"),
            severity="error",
        )
    if short is not None and long is not None and short.penalty and long.penalty and short.words > long.words:
        yield Finding(
            f"reward.penalties.too_short asks for {short.words} words, and too_long penalises more than {long.words}: "
            "every answer is penalised.",
            "Set reward.penalties.too_long.words above too_short.words.",
            at.where("reward.penalties"),
            severity="error",
        )
    if short is not None and short.penalty and length < short.words:
        yield Finding(
            f"{KEY} is {length}, and reward.penalties.too_short takes {short.penalty:g} from every answer of fewer "
            f"than {short.words} words: each response is penalised alike.",
            f"Raise {KEY} well above {short.words}, or set reward.penalties.too_short to null.",
            at.where(KEY),
            severity="error",
        )
    elif length < LEAST:
        yield Finding(
            f"{KEY} is {length} tokens, and the end of the text is one of them: hardly an answer can end.",
            f"Set {KEY} to the tokens that a whole answer takes.",
            at.where(KEY),
        )


@responses_too_short.fault
def a_response_of_two_tokens(world: World) -> None:
    """2 was meant as words, or as lines."""
    world.recipe["training"]["response_length"] = 2


@responses_too_short.fault
def no_response_can_end(world: World) -> None:
    length = world.recipe["training"]["response_length"]
    world.recipe["training"]["min_response_length"] = length


@responses_too_short.fault
def no_length_is_right(world: World) -> None:
    world.recipe["reward"]["penalties"] = {
        "too_short": {"words": 8, "penalty": 1.0},
        "too_long": {"words": 4, "penalty": 1.0},
    }


@responses_too_short.fault
def fewer_tokens_than_words_are_wanted(world: World) -> None:
    """Twenty words cannot be said in twelve tokens."""
    world.recipe["reward"]["penalties"]["too_short"] = {"words": 20, "penalty": 3.0}
