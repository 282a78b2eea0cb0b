"""Which differences change the bits of what a run computes.

Measured with torch 2.13, transformers 5.23 and TRL 1.16 on x86 processors, small Llamas, SFT, DPO and reward models
(docs/reproduce.md has the figures):

- **Change them**: another instruction set (`cpu_capability`, AVX2 instead of AVX-512), eager instead of SDPA attention,
  another optimizer or its fused form, evaluation on or off while training (its loader draws random numbers),
  `MKL_CBWR`, another batch or its split, packing, seeds.
- **May**: the number of threads in float32 with eager attention or attention dropout; none was seen with SDPA and no
  dropout. `ftrun reproduce` sets the recorded number.
- **Cannot**: `PYTHONHASHSEED`, data loader workers, gradient checkpointing, `OMP_NUM_THREADS` beside a number of
  threads that is set.

From documentation, and not measured here: "Completely reproducible results are not guaranteed across PyTorch releases,
individual commits, or different platforms" (https://docs.pytorch.org/docs/stable/notes/randomness.html), so other
versions of what computes, another GPU, CUDA or driver may change them.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

Effect = Literal["changes", "may", "cannot"]
CHANGES: Effect = "changes"
MAY: Effect = "may"
CANNOT: Effect = "cannot"


class Ruling(NamedTuple):
    """Whether the bits change, and why."""

    effect: Effect
    why: str


COMPUTES = re.compile(
    r"torch|transformers|trl|peft|accelerate|tokenizers|datasets|numpy|safetensors|bitsandbytes|triton|ftrun"
    r"|flash[-_]attn.*|kernels|liger[-_]kernel|deepspeed|xformers|sentencepiece|tiktoken|jinja2|pyarrow|nvidia[-_].*|mkl.*",
    re.IGNORECASE,
)
"""Packages that compute, draw, or read and write what is computed with."""

HARMLESS_VARIABLES = re.compile(
    r"PYTHONHASHSEED|OMP_NUM_THREADS|MKL_NUM_THREADS|OPENBLAS_NUM_THREADS|TOKENIZERS_PARALLELISM|.*_OFFLINE"
    r"|CUDA_VISIBLE_DEVICES|CUDA_DEVICE_ORDER|CUDA_LAUNCH_BLOCKING|CUDA_MODULE_LOADING|.*ALLOC_CONF"
)
CHANGING_VARIABLES = re.compile(r"ATEN_CPU_CAPABILITY|MKL_CBWR|NVIDIA_TF32_OVERRIDE|.*TF32.*")
HARMLESS_SETTINGS = re.compile(
    r"preflight\..*|training\.(?:dataloader_num_workers|dataloader_pin_memory|dataloader_persistent_workers"
    r"|gradient_checkpointing.*|save_.*|logging_.*|log_.*|disable_tqdm|run_name|report_to|hub_.*|push_to_hub)"
)


def judge_setting(key: str) -> Ruling:
    """A key of the recipe."""
    if HARMLESS_SETTINGS.fullmatch(key):
        return Ruling(
            CANNOT, "settles what is checked, saved or logged, or how it is computed to the same bits"
        )
    return Ruling(CHANGES, "another recipe")


def judge_package(name: str) -> Ruling:
    """An installed package of another version, or one that only one side has."""
    if COMPUTES.fullmatch(name):
        return Ruling(MAY, "not guaranteed across versions")
    return Ruling(CANNOT, "computes nothing here")


def judge_python(then: str, now: str) -> Ruling:
    """Another version of Python."""
    if then.split(".")[:2] == now.split(".")[:2]:
        return Ruling(CANNOT, "a patch release")
    return Ruling(MAY, "packages are built for another version")


def judge_variable(name: str) -> Ruling:
    """A variable of the environment."""
    if HARMLESS_VARIABLES.fullmatch(name):
        return Ruling(CANNOT, "measured, or its effect is compared by itself")
    if CHANGING_VARIABLES.fullmatch(name):
        return Ruling(CHANGES, "other kernels")
    return Ruling(MAY, "read by what computes")


def judge_hardware(key: str, *, on_gpu: bool, restored: bool = True) -> Ruling:
    """A fact of the machine; `restored`, where `ftrun reproduce` sets it as it was."""
    match key:
        case "threads" if restored:
            return Ruling(CANNOT, "set as it was by `ftrun reproduce`")
        case "threads":
            return Ruling(MAY, "sums in another order")
        case "cpu_capability":
            return Ruling(MAY, "the GPU computes") if on_gpu else Ruling(CHANGES, "other instructions")
        case "cpu":
            return (
                Ruling(CANNOT, "the GPU computes")
                if on_gpu
                else Ruling(MAY, "libraries choose kernels by it")
            )
        case "processes":
            return Ruling(CHANGES, "rows are shared and gradients added up otherwise")
        case "gpus":
            return Ruling(CHANGES, "other kernels") if on_gpu else Ruling(CHANGES, "the run was on the CPU")
        case _:
            return Ruling(MAY, "not guaranteed across versions")
