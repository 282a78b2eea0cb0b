"""Layers are given no gradient, next to none, or far too much; or do not move.

Symptom: the loss falls slowly or stays, while nothing fails: a part of the model is not trained.
Cause: a graph that is cut between two layers, gradients that shrink or grow from layer to layer (a layer that
saturates, a wrong scale), an optimizer that lost a part of the weights, or updates that round to nothing in bfloat16.
Fix: the finding tells which. Look at what was changed in the model's code; keep weights in float32 (`model.dtype`);
use a model with its normalisation in place.
Prevention: preflight takes a step and looks at every gradient (TRAIN017, TRAIN018).
Source: between the layers of one stack, gradient norms of the shipped recipes differ by less than a factor of 6 in
every look (two layers, from random weights on). The default asks for 10⁴, in three looks in a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import median

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.optimisation import AtLook, Layer, Look


@check("GUARD008", title="every trained layer is given gradients, and moves", severity="warning")
def gradients_vanish_in_layers(at: AtLook) -> Iterator[Finding]:
    settings = at.recipe.guards.gradients_vanish_in_layers
    looks = [look for look in at.looks if look.gradients][-settings.looks :]
    if not at.looks[-1].gradients or len(looks) < settings.looks:
        raise NotApplicable(f"fewer than {settings.looks} looks at gradients")
    sums = [math.fsum(look.gradients.values()) for look in looks]
    if not any(sums):
        yield Finding(
            f"No weight is given any gradient, in {len(looks)} looks from step {looks[0].step} to {looks[-1].step}.",
            "Look at what takes gradients away in front of the optimizer, and whether the loss is 0 already.",
            at.where("training"),
        )
        return
    if not all(0 < total < math.inf for total in sums):
        raise NotApplicable("all gradients are zero in a look, or one is no number")
    wrong = {
        layer: tuple(_judge(layer, look, settings.ratio) for look in looks) for layer in looks[-1].gradients
    }
    always = {layer: told for layer, told in wrong.items() if all(told) and len(set(told)) == 1}
    if always:
        yield _tell(at, always, looks)


def _judge(layer: Layer, look: Look, ratio: float) -> str:
    """What is wrong with a layer in a look; empty where nothing is."""
    norm = look.gradients.get(layer, 0.0)
    if norm == 0:
        return "is given no gradient"
    if layer in look.still:
        return "is given gradients and does not move"
    others = [
        other for one, other in look.gradients.items() if one.stack == layer.stack and one != layer and other
    ]
    if layer.number is None or not others:
        return ""
    usual = median(others)
    if norm * ratio < usual:
        return "is given next to no gradient"
    return "is given too large a gradient" if norm > usual * ratio else ""


def _tell(at: AtLook, wrong: dict[Layer, tuple[str, ...]], looks: Sequence[Look]) -> Finding:
    now = looks[-1]
    layer, told = next(iter(wrong.items()))
    more = f", and {len(wrong) - 1} other layers are like it" if len(wrong) > 1 else ""
    still = any("move" in one[-1] for one in wrong.values())
    return Finding(
        f"{layer} {told[-1]}, in {len(looks)} looks from step {looks[0].step} to {now.step}{more}.",
        "Keep weights in float32 (model.dtype), raise training.learning_rate, and make the optimizer from the finished "
        "model."
        if still
        else "Look at the model's code between this layer and the next, and at what scales its outputs.",
        at.where("model.dtype" if still else "model"),
        evidence=tuple(
            f"{layer} {told[-1]}: a gradient of {now.gradients[layer]:.3g}" for layer, told in wrong.items()
        )[:5],
    )
