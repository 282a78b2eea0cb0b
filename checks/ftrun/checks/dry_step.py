"""Reading the dry step: how far it came, and what the error that ended it most often means."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from ftrun.checks.engine import NotApplicable
from ftrun.checks.experiments import Phase
from ftrun.checks.finding import Finding
from ftrun.checks.rows import IGNORED
from ftrun.checks.stages import AtStep

Value = TypeVar("Value")

PHASES: Mapping[Phase, str] = {
    "batch": "collating the first batch",
    "forward": "the forward pass",
    "backward": "the backward pass",
    "update": "the optimizer step",
}

MEANINGS = (
    (
        r"out of memory|OutOfMemory|can't allocate memory",
        "training.per_device_train_batch_size",
        "Halve training.per_device_train_batch_size and double training.gradient_accumulation_steps, set "
        "training.gradient_checkpointing to true, or lower training.max_length.",
    ),
    (
        r"index out of range|device-side assert|out of bounds",
        "model.path",
        "Use the tokenizer that belongs to the model: an id of a token or position is beyond its embedding.",
    ),
    (
        r"does not require grad|does not have a grad_fn",
        "model",
        "Let weights be trainable; with training.gradient_checkpointing, set "
        "training.gradient_checkpointing_kwargs to {use_reentrant: false}.",
    ),
    (
        r"on the same device|found at least two devices",
        "training.model_init_kwargs",
        "Remove device_map from training.model_init_kwargs: batch and model are on different devices.",
    ),
    (
        r"unscale FP16",
        "model.dtype",
        "Set model.dtype to float32: float16 weights cannot be trained, and training.fp16 computes in float16.",
    ),
    (
        r"same dtype|expected scalar type|should be the same|not implemented for 'Half'",
        "model.dtype",
        "Set model.dtype to float32, or the precision under training: to that of the weights.",
    ),
    (
        r"no kernel image|CUBLAS|cuDNN|CUDA driver",
        "model",
        "Run `ftrun doctor`: torch, driver and device do not fit.",
    ),
)
"""What an error's text tells: a pattern, the recipe's key, and what to do. The first that fits counts."""


def tell_failure(at: AtStep, phase: Phase, otherwise: str) -> Iterator[Finding]:
    """The finding of the check for `phase`, where that is where the step ended; `otherwise` is the fix for an
    error that says nothing known.

    Raises NotApplicable where the step ended before.
    """
    failed, error = at.step.failed, at.step.error
    phases = list(PHASES)
    if failed is None or error is None or phases.index(failed) > phases.index(phase):
        return
    if failed != phase:
        raise NotApplicable(f"{PHASES[failed]} failed")
    text = f"{type(error).__name__}: {error}"
    key, fix = next(
        ((key, fix) for pattern, key, fix in MEANINGS if re.search(pattern, text)), ("training", otherwise)
    )
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    yield Finding(
        message=f"{PHASES[phase].capitalize()} fails with {type(error).__name__}: {lines[0] if lines else 'no text'}",
        fix=fix,
        where=at.where(key),
        evidence=tuple(describe_batch(at.step.batch)) if at.step.batch is not None else (),
    )


def describe_batch(batch: Mapping[str, Any]) -> Iterator[str]:
    """A line for each tensor of a batch: name, shape, and the range of whole numbers."""
    for name, value in batch.items():
        if hasattr(value, "shape"):
            whole = not value.is_floating_point() and value.numel() > 0
            span = f", {int(value.min())} to {int(value.max())}" if whole else ""
            yield f"{name}: {tuple(value.shape)}{span}"


def known(value: Value | None, at: AtStep) -> Value:
    """A part of the step. Raises NotApplicable where the step ended before it was known."""
    if value is None:
        raise NotApplicable(f"{PHASES[at.step.failed or 'batch']} failed")
    return value


def need_trained_tokens(at: AtStep) -> None:
    """Raises NotApplicable where the first batch trains no token, as pieces of long packed rows may.

    Without packing each row has a trained token; a batch without one then comes of a fault and is judged.
    """
    labels = (at.step.batch or {}).get("labels")
    if labels is not None and at.recipe.training.get("packing") and not (labels != IGNORED).any():
        raise NotApplicable("the first packed batch has no trained token")
