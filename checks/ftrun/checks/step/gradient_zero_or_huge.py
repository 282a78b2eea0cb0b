"""The gradient is zero, not finite, or huge.

Symptom: zero: the loss never moves. Huge: the loss jumps, or is NaN within a few steps.
Cause: zero: adapters with a scale of 0, labels that are all masked, a cut graph. Huge or not finite: damaged
weights, an overflow in half precision, a malformed batch.
Fix: zero: give the adapters a scale (`model.lora.lora_alpha`) and look at the labels with `ftrun preview`.
Huge: keep `training.max_grad_norm: 1.0`, compute in bfloat16 or float32, look at the first rows.
Source: a norm above 100 is worth a word (axolotl's guide to stability: 0.1 to 10 is healthy, above 100
unstable), one above 10⁴ is an error. At the first step of LoRA the gradients of A are exactly zero because B
is zero: that is healthy.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.dry_step import known, need_trained_tokens
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.losses import losses_of
from ftrun.checks.parameters import group_names
from ftrun.checks.stages import AtModel, AtStep

if TYPE_CHECKING:
    from ftrun.checks.testing import World

HUGE, UNSTABLE, HUGE_SCORE = 1e4, 100.0, 1e3
MAY_REST = (".experts.", "trainable_tokens_", "bias")
"""Parts whose gradient may be exactly zero in one batch: experts and tokens that do not occur, and biases of
keys, which softmax cancels."""


@check("TRAIN018", title="gradients are neither zero nor huge")
def gradient_zero_or_huge(at: AtStep) -> Iterator[Finding]:
    gradients = known(at.step.gradients, at)
    norms = {name: norm for name, norm in gradients.items() if norm is not None}
    if not norms:
        raise NotApplicable("no parameter has a gradient")
    broken = [name for name, norm in norms.items() if not math.isfinite(norm)]
    if broken:
        yield _broken(at, broken, len(norms))
        return
    need_trained_tokens(at)
    total = math.hypot(*norms.values())
    if total == 0:
        yield Finding(
            message=f"The gradients of all {len(norms)} trainable tensors are exactly 0.",
            fix="Set model.lora.lora_alpha above 0, and look at the labels with `ftrun preview`."
            if at.recipe.model.lora is not None
            else "Look at the labels with `ftrun preview`, and see that no score or weight is so large that the loss "
            "is flat.",
            where=at.where("model.lora.lora_alpha" if at.recipe.model.lora is not None else "data"),
        )
        return
    if total > (HUGE if _is_steep(at) else UNSTABLE) and not _is_of_the_scores(at):
        yield _huge(at, norms, total)
    resting = _resting(norms)
    if resting:
        yield Finding(
            message=f"The gradients of {len(resting)} of {len(norms)} trainable tensors are exactly 0.",
            fix="See why the loss does not depend on these weights: a scale of 0, a cut graph, or an unused part.",
            where=at.where("model"),
            evidence=group_names(resting),
            severity="warning",
        )


def _is_of_the_scores(at: AtStep) -> bool:
    """Whether scores out of all scale, which PPO009 tells, make the gradient."""
    scores = getattr(at.trainer, "seen", {}).get("scores")
    return scores is not None and float(scores.total.abs().max()) > HUGE_SCORE


def _is_steep(at: AtStep) -> bool:
    """Whether the loss has large gradients by design: SPPO's squares the distance to half of 1 / beta."""
    return at.recipe.method == "dpo" and "sppo_hard" in losses_of(at.recipe.training)


def _broken(at: AtStep, names: list[str], count: int) -> Finding:
    if at.trainer.accelerator.scaler is not None:
        return Finding(
            message=f"{len(names)} of {count} gradients overflow float16 at the first loss scale. The scaler lowers "
            "it and skips steps until they fit.",
            fix="Set training.bf16 in place of training.fp16 where the device has it.",
            where=at.where("training.fp16"),
            evidence=group_names(names),
            severity="warning",
        )
    return Finding(
        message=f"The gradients of {len(names)} of {count} trainable tensors are not finite.",
        fix="Compute in bfloat16 or float32, and see that weights and rows are whole.",
        where=at.where("model.dtype"),
        evidence=group_names(names),
    )


def _huge(at: AtStep, norms: Mapping[str, float], total: float) -> Finding:
    largest = sorted(norms.items(), key=lambda item: -item[1])[:3]
    return Finding(
        message=f"The norm of the gradient is {total:.3g}, {total / math.sqrt(len(norms)):.3g} for a tensor on "
        f"average; up to 10 is usual. It is clipped to {at.trainer.args.max_grad_norm:g}.",
        fix="See that the weights are whole and belong to the tokenizer; keep training.max_grad_norm at 1.0 or below.",
        where=at.where("training.max_grad_norm"),
        evidence=tuple(f"{name}: {norm:.3g}" for name, norm in largest),
        severity="error" if total > HUGE else "warning",
    )


def _resting(norms: Mapping[str, float]) -> list[str]:
    """Tensors with a gradient of zero; of an adapter only where all of its tensors have one."""
    parts: dict[str, list[str]] = defaultdict(list)
    for name in norms:
        if not any(part in name for part in MAY_REST):
            parts[name.partition(".lora_")[0] if ".lora_" in name else name].append(name)
    return [name for names in parts.values() if not any(norms[one] for one in names) for name in names]


@gradient_zero_or_huge.fault
def adapters_have_no_scale(world: World) -> None:
    world.recipe["model"]["lora"] = {"r": 8, "lora_alpha": 0, "target_modules": "all-linear"}


@gradient_zero_or_huge.fault
def head_is_enormous(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        at.model.get_output_embeddings().weight.data *= 3000.0
        return at

    world.after(AtModel, damage)


@gradient_zero_or_huge.fault
def one_gradient_overflows(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        weight = at.model.model.norm.weight
        weight.register_hook(lambda gradient: gradient * float("inf"))
        return at

    world.after(AtModel, damage)


@gradient_zero_or_huge.fault
def one_layer_is_switched_off(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        at.model.model.layers[0].mlp.register_forward_hook(lambda module, inputs, output: output * 0.0)
        return at

    world.after(AtModel, damage)
