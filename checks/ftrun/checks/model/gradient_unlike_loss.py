"""A gradient is not that of the loss.

Symptom: the loss falls slowly, or stands, although every weight moves; another kernel or another machine trains well.
Cause: a kernel or a custom function whose backward pass is wrong, a hook on gradients that was left in, a function
that is rounded on the way forward and passed through on the way back.
Fix: set `model.attention: eager`, leave custom kernels out, and remove hooks from the model.
Prevention: `torch.autograd.gradcheck` on every function with a backward pass of its own.
Source: a weight is moved a little along its gradient, both ways, and the loss has to change by the gradient's norm
times that way (the central difference of `torch.autograd.gradcheck`). Measured in float32 on healthy models: 0.92 to
1.01 times what the gradient says. Told is under 0.5 and above 2, in one of up to 12 weights, where the change is a
hundred times what rounding can make. Half precision rounds too much, and is not judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import spread
from ftrun.checks.finding import Finding
from ftrun.checks.parameters import group_names
from ftrun.checks.reference import without_dropout
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    import torch

    from ftrun.checks.testing import World

LOOKED_AT = 12
"""Weights that are moved, each by itself."""

TOKENS = 48
"""Tokens of the one row."""

STEP = 1e-3
"""How far a weight is moved at most, as a share of its norm."""

CHANGE = 1e-2
"""By how much the loss is to change, in nats."""

NOISE = 1e-6
"""What rounding can make of a loss in float32, as a share of it."""

LOW, HIGH = 0.5, 2.0


@check("TRAIN045", title="gradients are those of the loss", methods=("sft", "dpo"))
def gradient_unlike_loss(at: AtModel) -> Iterator[Finding]:
    import torch

    model = at.model
    if any(p.element_size() < 4 for p in model.parameters()):
        raise NotApplicable("half precision rounds too much")
    if "flash" in str(model.config._attn_implementation):
        raise NotApplicable("flash attention computes in half precision alone")
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not trained:
        raise NotApplicable("nothing is trained")
    ids = _choose_row(at)
    with without_dropout(model):
        with torch.no_grad():
            if float(_lose(model, ids)) != float(_lose(model, ids)):
                raise NotApplicable("two evaluations of the same row differ")
        grads = torch.autograd.grad(_lose(model, ids), [p for _, p in trained], allow_unused=True)
        moved = [
            (name, p, g) for (name, p), g in zip(trained, grads, strict=True) if g is not None and g.any()
        ]
        chosen = [moved[place] for place in spread(len(moved), LOOKED_AT).tolist()]
        with torch.no_grad():
            ratios = {
                name: ratio for name, p, g in chosen if (ratio := _compare(model, ids, p, g)) is not None
            }
    if not ratios:
        raise NotApplicable("no weight moves the loss by more than rounding")
    wrong = {name: ratio for name, ratio in ratios.items() if not LOW <= ratio <= HIGH}
    if wrong:
        name = min(wrong, key=wrong.__getitem__)
        yield Finding(
            message=f"{len(wrong)} of {len(ratios)} weights change the loss otherwise than their gradient says: "
            f"{name} by {wrong[name]:.2g} times that.",
            fix="Set model.attention to eager, and remove custom kernels, and hooks on gradients.",
            where=at.where("model.attention"),
            evidence=group_names(list(wrong)),
        )


def _choose_row(at: AtModel) -> torch.Tensor:
    import torch

    for i in range(min(len(at.train), 64)):
        if at.train.lengths[i] > 2:
            return torch.tensor([at.train[i].ids[:TOKENS].tolist()], device=at.trainer.args.device)
    raise NotApplicable("no row has three tokens")


def _lose(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """The mean loss of the row's next tokens."""
    import torch

    logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
    return torch.nn.functional.cross_entropy(logits, ids[0, 1:])


def _compare(model: Any, ids: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor) -> float | None:
    """How much the loss changes along a gradient, as a multiple of what the gradient says; None where that is too
    little to tell. The weight is afterwards what it was, bit for bit."""
    norm = float(gradient.norm())
    far = min(CHANGE / norm, STEP * float(weight.norm()) or STEP)
    kept = weight.detach().clone()
    losses = []
    try:
        for way in (far, -far):
            weight.copy_(kept + way / norm * gradient)
            losses.append(float(_lose(model, ids)))
    finally:
        weight.copy_(kept)
    said = 2 * far * norm
    if said < 100 * NOISE * max(losses):
        return None
    return (losses[0] - losses[1]) / said


@gradient_unlike_loss.fault
def the_gradients_of_a_layer_are_reversed(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        for weight in at.model.model.layers[1].parameters():
            weight.register_hook(lambda gradient: -gradient)
        return at

    world.after(AtModel, damage)


@gradient_unlike_loss.fault
def a_function_goes_back_otherwise(world: World) -> None:
    """Forward it halves, backward it does not."""

    def damage(at: AtModel) -> AtModel:
        def pass_through(module: Any, inputs: Any, output: Any) -> Any:
            return output + (-0.5 * output).detach()

        at.model.model.layers[0].mlp.register_forward_hook(pass_through)
        return at

    world.after(AtModel, damage)
