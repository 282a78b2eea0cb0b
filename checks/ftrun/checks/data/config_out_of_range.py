"""A value in the model's config.json is out of any range that models are trained with.

Symptom: the base is worse than it should be, most of all on long rows, and nothing says why.
Cause: a config that was edited by hand, converted wrongly, or taken from another model.
Fix: take config.json again from where the weights came.
Prevention: change what a run needs in the recipe, and leave a model's own files alone.
Source: the configs of Llama 1 to 4, Qwen 1.5 to 3, Mistral, Gemma 1 to 3, Phi, OLMo, DeepSeek, gpt-oss and GPT-2:
epsilon of norms 1e-6 to 1e-5, rope_theta from 10,000 on, windows from 128 tokens on, soft caps of logits 30 and 50.
Told is what is several times beyond these.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

RANGES = {
    "rms_norm_eps": (0.0, 1e-2, "what norms are given is lost in it"),
    "layer_norm_eps": (0.0, 1e-2, "what norms are given is lost in it"),
    "layer_norm_epsilon": (0.0, 1e-2, "what norms are given is lost in it"),
    "rope_theta": (1000.0, math.inf, "places a few tokens apart look alike"),
    "sliding_window": (32, math.inf, "a token sees hardly more than the words beside it"),
    "final_logit_softcapping": (5.0, math.inf, "the model cannot be sure of any word"),
    "attn_logit_softcapping": (5.0, math.inf, "no token can look at few others"),
}
"""Least, most, and what is wrong beyond them."""


@check("MODEL039", title="the model's config is one that models have", severity="warning")
def config_out_of_range(at: AtData) -> Iterator[Finding]:
    text: Any = at.model_config.get_text_config()
    rope = getattr(text, "rope_parameters", None)
    places = [vars(text), *_mappings(rope)]
    windows = getattr(text, "use_sliding_window", True)
    for name, (least, most, why) in RANGES.items():
        values = [place[name] for place in places if isinstance(place.get(name), int | float)]
        wrong = [value for value in values if not least <= value <= most]
        if wrong and (name != "sliding_window" or windows):
            yield Finding(
                message=f"{name} is {wrong[0]:g} in the model's config.json: {why}.",
                fix="Take config.json again from where the weights came.",
                where=at.where("model.path"),
            )


def _mappings(rope: Any) -> Iterator[Mapping[str, Any]]:
    """Rotary parameters: of the model, or of each kind of layer."""
    if isinstance(rope, Mapping):
        yield rope
        yield from (inner for inner in rope.values() if isinstance(inner, Mapping))


@config_out_of_range.fault
def norms_have_an_epsilon_of_ten(world: World) -> None:
    _change(world, rms_norm_eps=10.0)


@config_out_of_range.fault
def a_window_of_four_tokens(world: World) -> None:
    _change(world, sliding_window=4)


@config_out_of_range.fault
def places_turn_too_fast(world: World) -> None:
    _change(world, rope_parameters={"rope_type": "default", "rope_theta": 50.0})


def _change(world: World, **values: Any) -> None:
    from copy import deepcopy
    from dataclasses import replace

    def damage(at: AtData) -> AtData:
        config: Any = deepcopy(at.model_config)
        for name, value in values.items():
            setattr(config, name, value)
        return replace(at, model_config=config)

    world.after(AtData, damage)
