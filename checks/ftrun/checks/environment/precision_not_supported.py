"""The device cannot compute in the precision that the recipe asks for.

Symptom: "At most one of fp16 and bf16 can be True", "Attempting to unscale FP16 gradients", or a run many
times slower than it should be, or weights of -inf after the first step.
Cause: bfloat16 needs a GPU of compute capability 8.0 (A100, RTX 30) and is emulated on older ones; `fp16`
needs a GPU, and on the CPU is left out in silence; in float16 weights that are trained whole AdamW's epsilon
of 1e-8 is 0, and an update of less than 5e-4 of a weight is lost.
Fix: leave `training.bf16` and `model.dtype` out, and ftrun chooses by the device; on older GPUs set
`training.fp16: true`.
Prevention: `ftrun doctor` shows the devices of a machine.
Source: TrainingArguments refuses both at once; torch's GradScaler refuses float16 gradients; one step of
`adamw_torch` on float16 weights gives -inf (torch 2.13), one of `adamw_torch_fused` at 2e-5 changes nothing.
axolotl#587, #766, trl#3598.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.machine import Device
from ftrun.checks.stages import AtEnvironment

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("ENV004", title="the device computes in the recipe's precision")
def precision_not_supported(at: AtEnvironment) -> Iterator[Finding]:
    """Tell a precision that is contradictory, that the device lacks, or that whole training cannot use."""
    if at.machine.torch_error is not None:
        raise NotApplicable("torch does not import")
    training, model = at.recipe.training, at.recipe.model
    on_cpu = bool(training["use_cpu"])
    if training["bf16"] is True and training["fp16"]:
        message = "training.bf16 and training.fp16 are both true, and one run has one of them."
        fix = "Remove training.fp16."
        yield Finding(message, fix, at.where("training.fp16"), patch=Patch("training.fp16", False))
    elif training["fp16"] and on_cpu:
        yield Finding(
            message="training.fp16 is true and training.use_cpu too: the run is in float32 all the same.",
            fix="Remove training.fp16.",
            where=at.where("training.fp16"),
            patch=Patch("training.fp16", False),
            severity="warning",
        )
    if not on_cpu:
        yield from _judge_devices(at)
    if model.dtype == "float16" and model.lora is None:
        yield Finding(
            message="model.dtype is float16 and every weight is trained: updates become 0 or infinite.",
            fix="Remove model.dtype; for less memory set training.fp16 or training.bf16, or use model.lora.",
            where=at.where("model.dtype"),
            patch=Patch("model.dtype", "auto"),
        )


def _judge_devices(at: AtEnvironment) -> Iterator[Finding]:
    """Tell bfloat16 on a device that has none."""
    lacking = next((device for device in at.machine.devices if not device.bf16), None)
    if lacking is None:
        return
    asked = "training.bf16" if at.recipe.training["bf16"] is True else "model.dtype"
    if asked == "training.bf16" or at.recipe.model.dtype == "bfloat16":
        yield Finding(
            message=f"{asked} asks for bfloat16, and {lacking.name} has none: torch emulates it, slowly.",
            fix=f"Remove {asked}, and set training.fp16 to true.",
            where=at.where(asked),
            patch=Patch("model.dtype", "auto") if asked == "model.dtype" else None,
        )


def _old_gpu(at: AtEnvironment) -> AtEnvironment:
    card = Device(name="Tesla T4", memory=16 * 2**30, free=15 * 2**30, bf16=False, fp16=True)
    return replace(at, machine=replace(at.machine, devices=(card,), nvidia_devices=1, torch_error=None))


@precision_not_supported.fault
def both_at_once(world: World) -> None:
    """Two recipes pasted together."""
    world.recipe["training"] |= {"bf16": True, "fp16": True}


@precision_not_supported.fault
def bfloat16_on_an_old_gpu(world: World) -> None:
    """A T4."""
    world.recipe["training"]["bf16"] = True
    world.after(AtEnvironment, _old_gpu)


@precision_not_supported.fault
def bfloat16_weights_on_an_old_gpu(world: World) -> None:
    """A T4, asked through the model."""
    world.recipe["model"] |= {"dtype": "bfloat16", "lora": {"r": 8, "target_modules": "all-linear"}}
    world.after(AtEnvironment, _old_gpu)


@precision_not_supported.fault
def float16_on_the_cpu(world: World) -> None:
    """The setting has no effect."""
    world.recipe["training"] |= {"fp16": True, "use_cpu": True}


@precision_not_supported.fault
def float16_weights_trained_whole(world: World) -> None:
    """Half of the memory and none of the updates."""
    world.recipe["model"]["dtype"] = "float16"
