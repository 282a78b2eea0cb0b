"""Weights are computed in another way than they were trained for.

Symptom: the loss of the base is far above its usual one; what was learnt in pre-training is lost.
Cause: `training.model_init_kwargs` gives the model another number of layers, activation or size than its checkpoint
was trained with; layers that are too many are drawn at random, those that are too few are left out.
Fix: leave these settings to the checkpoint's own config.json.
Prevention: give model_init_kwargs what changes how weights are loaded, not what they are.
Source: compared with the config.json that is loaded. Not judged: lengths and positions, which are extended on purpose,
dropout, the attention's implementation, ids of tokens, labels and outputs, and tiny models of a test.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

KEY = "training.model_init_kwargs"
FREE = re.compile(
    r"rope|position|max_length|dropout|drop$|pdrop|attn_implementation|dtype|use_cache|output_|return_|label"
    r"|token_id|pad|gradient|router|aux_loss|name_or_path|problem_type|initializer|sliding_window|trust|revision"
)
"""What may differ from the config without changing what the weights compute, or is changed on purpose."""


@check("MODEL028", title="weights are computed as they were trained")
def architecture_overridden(at: AtData) -> Iterator[Finding]:
    written = at.recipe.training.get("model_init_kwargs") or {}
    if not written:
        raise NotApplicable("training.model_init_kwargs is empty")
    known = at.model_config.get_text_config().to_dict()
    other = {
        name: value
        for name, value in written.items()
        if name in known and known[name] is not None and known[name] != value and not FREE.search(name)
    }
    if other:
        yield Finding(
            message="training.model_init_kwargs gives the model "
            + ", ".join(f"{name} {value!r}" for name, value in other.items())
            + "; its weights were trained with "
            + ", ".join(f"{name} {known[name]!r}" for name in other)
            + ".",
            fix=f"Remove {', '.join(other)} from {KEY}.",
            where=at.where(KEY),
        )


@architecture_overridden.fault
def another_activation(world: World) -> None:
    world.recipe["training"]["model_init_kwargs"] = {"hidden_act": "relu"}


@architecture_overridden.fault
def a_layer_is_left_out(world: World) -> None:
    world.recipe["training"]["model_init_kwargs"] = {"num_hidden_layers": 1}
