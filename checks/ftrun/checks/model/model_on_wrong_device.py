"""The model is not on the device that trains it.

Symptom: `Expected all tensors to be on the same device`, or a GPU that idles while the CPU computes.
Cause: a `device_map` under `training.model_init_kwargs`, offloading for lack of memory, or weights that were
never loaded and stand on torch's `meta` device.
Fix: remove `device_map`; where memory is short, use `model.lora` with `model.quantization`.
Source: transformers' `Trainer` moves a model to `args.device` unless it has a device map.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.parameters import group_names
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("MODEL005", title="the model is on the device that trains it")
def model_on_wrong_device(at: AtModel) -> Iterator[Finding]:
    arguments = at.trainer.args
    if at.trainer.is_fsdp_enabled or at.trainer.is_deepspeed_enabled:
        raise NotApplicable("weights are placed when training begins")
    wanted = {arguments.device.type}
    if arguments.bf16_full_eval or arguments.fp16_full_eval:
        wanted.add("cpu")  # `Trainer` then moves the model when training begins
    stray = {name: p.device for name, p in at.model.named_parameters() if p.device.type not in wanted}
    if not stray:
        return
    devices = ", ".join(sorted({str(device) for device in stray.values()}))
    yield Finding(
        message=f"{len(stray)} parameters are on {devices}; training runs on {arguments.device}.",
        fix="Remove device_map from training.model_init_kwargs and let the trainer place the model.",
        where=at.where("training.model_init_kwargs"),
        evidence=group_names(stray),
    )


@model_on_wrong_device.fault
def weights_on_meta(world: World) -> None:
    def move(at: AtModel) -> AtModel:
        at.model.lm_head.to("meta")
        return at

    world.after(AtModel, move)
