"""Looking at the machine: packages, driver, devices, disk. Facts only; the checks judge them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from ftrun.checks.machine import Device, Machine, Place
from ftrun.runner.launching.surroundings import STARTER

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "mlflow")


def inspect_machine(output: Path) -> Machine:
    """The machine as it is now. Imports torch; `output` is the folder whose disk is measured."""
    torch_error, torch_cuda, devices = _inspect_torch()
    driver, driver_cuda, count = _inspect_driver()
    return Machine(
        packages={name: _version(name) for name in PACKAGES},
        tested=read_tested_ranges(),
        torch_error=torch_error,
        torch_cuda=torch_cuda,
        driver=driver,
        driver_cuda=driver_cuda,
        nvidia_devices=count,
        visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
        devices=devices,
        cpu_count=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        free_disk=shutil.disk_usage(_existing_parent(output)).free,
        place=read_place(os.environ),
    )


def read_place(environ: Mapping[str, str]) -> Place:
    """Which process of how many this is, as its environment says."""
    strategies = {"fsdp": "ACCELERATE_USE_FSDP", "deepspeed": "ACCELERATE_USE_DEEPSPEED"}
    brought = [name for name, variable in strategies.items() if environ.get(variable, "").lower() == "true"]
    count = int(environ.get("WORLD_SIZE", "1"))
    machines = environ.get("GROUP_WORLD_SIZE") or environ.get("SLURM_STEP_NUM_NODES")
    return Place(
        count=count,
        rank=int(environ.get("RANK", "0")),
        local_count=int(environ.get("LOCAL_WORLD_SIZE", str(count))),
        machines=int(machines) if machines and "RANK" in environ else None,
        strategy=brought[0] if brought else None,
        from_outside="RANK" in environ and STARTER not in environ,
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def read_tested_ranges() -> dict[str, str]:
    """The ranges that ftrun's own package metadata asks for, which are those it is tested with."""
    return dict(_tested())


def _tested() -> Iterator[tuple[str, str]]:
    try:
        requirements = metadata.requires("ftrun") or []
    except metadata.PackageNotFoundError:
        return
    for requirement in requirements:
        match = re.match(r"([A-Za-z0-9_-]+)\s*([<>=!~][^;]*)?", requirement)
        if match and match[1] in PACKAGES and match[2]:
            yield match[1], match[2].strip()


def _existing_parent(folder: Path) -> Path:
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def _inspect_torch() -> tuple[str | None, str | None, tuple[Device, ...]]:
    try:
        import torch
    except Exception as error:  # a build boundary: a broken installation fails in the loader's own ways
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", None, ()
    if not torch.cuda.is_available():
        return None, torch.version.cuda, ()
    return None, torch.version.cuda, tuple(_inspect_device(i) for i in range(torch.cuda.device_count()))


def _inspect_device(index: int) -> Device:
    import torch

    free, total = torch.cuda.mem_get_info(index)
    major, _ = torch.cuda.get_device_capability(index)
    # bfloat16 arithmetic came with compute capability 8.0, fast float16 with 5.3 and up.
    return Device(torch.cuda.get_device_name(index), total, free, bf16=major >= 8, fp16=major >= 6)


def _inspect_driver() -> tuple[str | None, str | None, int]:
    """Driver version, newest CUDA it runs, number of devices, from nvidia-smi; nothing where it is absent."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None, None, 0
    try:
        shown = subprocess.run([program], capture_output=True, text=True, timeout=10, check=False).stdout
        listed = subprocess.run(
            [program, "-L"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None, None, 0
    driver = re.search(r"Driver Version:\s*([\d.]+)", shown)
    cuda = re.search(r"CUDA Version:\s*([\d.]+)", shown)
    count = sum(line.startswith("GPU ") for line in listed.splitlines())
    return driver[1] if driver else None, cuda[1] if cuda else None, count
