"""torch sees no GPU, although there is one or the recipe needs one.

Symptom: training crawls on the CPU, or ends with "Your setup doesn't support bf16/gpu".
Cause: a CPU build of torch, no NVIDIA driver, a driver that does not fit torch's CUDA,
`CUDA_VISIBLE_DEVICES` set to nothing, a container started without its GPUs.
Fix: what the message names; to train on the CPU on purpose set `training.use_cpu: true`.
Prevention: run `ftrun doctor` on a new machine.
Source: transformers raises for `bf16: true` without a GPU or `use_cpu`, after the data is prepared.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.machine import Machine
from ftrun.checks.stages import AtEnvironment
from ftrun.checks.versions import is_newer, needs_newer_driver

if TYPE_CHECKING:
    from ftrun.checks.testing import World

HIDDEN = ("", "-1", "none", "NoDevFiles")


@check("ENV002", title="torch reaches the GPU, where there is one or the recipe wants one")
def gpu_out_of_reach(at: AtEnvironment) -> Iterator[Finding]:
    """Tell why torch sees no device, where the machine has one or the recipe needs one."""
    machine, use_cpu = at.machine, bool(at.recipe.training["use_cpu"])
    if machine.torch_error is not None:
        raise NotApplicable("torch does not import")
    if machine.devices:
        return
    if needs_newer_driver(machine) and machine.visible_devices not in HIDDEN:
        raise NotApplicable("the driver is too old for torch, which ENV003 tells")
    wishes = list(_wishes(at, use_cpu))
    has_gpu = machine.nvidia_devices > 0 and not use_cpu
    if not wishes and not has_gpu:
        return
    reason, fix = explain(machine)
    subject = f"{wishes[0]} needs a GPU" if wishes else f"NVIDIA devices here: {machine.nvidia_devices}"
    # Hiding the devices is also how people choose the CPU.
    chosen = not wishes and machine.visible_devices in HIDDEN
    yield Finding(
        message=f"{subject}, and torch sees none: {reason}.",
        fix=f"{fix} To train on the CPU, set training.use_cpu to true."
        if has_gpu and not wishes
        else f"{fix} Or train without: {'; '.join(_ways_out(wishes))}.",
        where=at.where(wishes[0].partition(":")[0]) if wishes else at.where("training.use_cpu"),
        severity="warning" if chosen else "error",
    )


def _wishes(at: AtEnvironment, use_cpu: bool) -> Iterator[str]:
    """What in the recipe needs a GPU, as `key: value`."""
    model, training = at.recipe.model, at.recipe.training
    if model.quantization is not None:
        yield f"model.quantization: {model.quantization}"
    if model.attention.startswith("flash_attention"):
        yield f"model.attention: {model.attention}"
    both = (
        training["bf16"] is True and training["fp16"] is True
    )  # which ENV004 tells, whatever the machine has
    # Apple's GPUs have both and are no CUDA devices.
    if not use_cpu and not both and sys.platform != "darwin":
        for name in ("bf16", "fp16"):
            if training[name] is True:
                yield f"training.{name}: true"


def _ways_out(wishes: list[str]) -> Iterator[str]:
    for wish in wishes:
        key = wish.partition(":")[0]
        if key == "training.bf16":
            yield "training.use_cpu: true"
        else:
            yield f"remove {key}"


def explain(machine: Machine) -> tuple[str, str]:
    """Why torch sees no device, and what to do."""
    if machine.visible_devices in HIDDEN:
        shown = f'CUDA_VISIBLE_DEVICES is "{machine.visible_devices}", which hides them'
        return shown, "Unset CUDA_VISIBLE_DEVICES, or name devices: `CUDA_VISIBLE_DEVICES=0`."
    if machine.driver is None:
        return "no NVIDIA driver was found", (
            "Install the driver, or start the container with its GPUs (`docker run --gpus all`)."
        )
    if machine.nvidia_devices == 0:
        return (
            f"driver {machine.driver} shows no device",
            "Use a machine with a GPU, or attach one to this one.",
        )
    if machine.torch_cuda is None:
        version = machine.packages.get("torch")
        return f"torch {version} is a CPU build", (
            "Install a CUDA build of torch: choose it at https://pytorch.org/get-started/locally."
        )
    if machine.driver_cuda is not None and is_newer(machine.torch_cuda, machine.driver_cuda):
        return (
            f"torch is built for CUDA {machine.torch_cuda}, and driver {machine.driver} runs up to "
            f"{machine.driver_cuda}"
        ), "Update the driver, or install torch for an older CUDA."
    return (
        f"torch (CUDA {machine.torch_cuda}) and driver {machine.driver} fit, and CUDA does not start"
    ), 'Read what `python -c "import torch; torch.cuda.init()"` says.'


def _without_devices(machine: Machine, **facts: object) -> Machine:
    """A machine whose one GPU torch cannot see, for the reason that `facts` give."""
    whole: dict[str, object] = {
        "devices": (),
        "nvidia_devices": 1,
        "driver": "570.86.15",
        "driver_cuda": "12.8",
        "torch_cuda": "12.8",
        "visible_devices": None,
        "torch_error": None,
    }
    return replace(machine, **{**whole, **facts})  # type: ignore[arg-type]  # fields of Machine


@gpu_out_of_reach.fault
def a_cpu_build_of_torch(world: World) -> None:
    """The default wheel of some systems."""
    world.after(AtEnvironment, lambda at: replace(at, machine=_without_devices(at.machine, torch_cuda=None)))


@gpu_out_of_reach.fault
def a_hidden_gpu_and_bf16(world: World) -> None:
    """The scheduler gave no device, and the recipe needs one."""
    world.recipe["training"]["bf16"] = True
    world.after(
        AtEnvironment, lambda at: replace(at, machine=_without_devices(at.machine, visible_devices=""))
    )


@gpu_out_of_reach.fault
def a_quantised_model_without_a_driver(world: World) -> None:
    """QLoRA on a machine without a GPU."""
    world.recipe["model"] |= {"quantization": "4bit", "lora": {"r": 8, "target_modules": "all-linear"}}
    bare = {"nvidia_devices": 0, "driver": None, "driver_cuda": None, "torch_cuda": None}
    world.after(AtEnvironment, lambda at: replace(at, machine=_without_devices(at.machine, **bare)))


@gpu_out_of_reach.fault
def cuda_newer_than_the_driver(world: World) -> None:
    """A build for 12.8 that does not start on a driver of 12.2."""
    facts = {"torch_cuda": "12.8", "driver_cuda": "12.2", "driver": "535.183.01"}
    world.after(AtEnvironment, lambda at: replace(at, machine=_without_devices(at.machine, **facts)))
