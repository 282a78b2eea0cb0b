"""What the checks of the environment stage say, beyond silence on healthy worlds and the faults."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

from ftrun.checks.check import Check
from ftrun.checks.environment.cuda_newer_than_driver import cuda_newer_than_driver
from ftrun.checks.environment.gpu_out_of_reach import explain, gpu_out_of_reach
from ftrun.checks.environment.precision_not_supported import precision_not_supported
from ftrun.checks.finding import Finding
from ftrun.checks.machine import Device, Machine
from ftrun.checks.model.disk_too_small import count_kept
from ftrun.checks.stages import AtData, AtEnvironment, AtModel
from ftrun.checks.testing import World, sft_full
from ftrun.checks.versions import is_within
from ftrun.runner.methods.sft import build_model
from ftrun.runner.preflight import ascend, climb

CARD = Device(name="NVIDIA A100", memory=40 * 2**30, free=39 * 2**30, bf16=True, fp16=True)
MACHINE = Machine(
    packages={"torch": "2.13.0"},
    tested={},
    torch_error=None,
    torch_cuda="12.8",
    driver="570.86.15",
    driver_cuda="12.8",
    nvidia_devices=1,
    visible_devices=None,
    devices=(CARD,),
    cpu_count=8,
    free_disk=10**12,
)
BARE: dict[str, Any] = {
    "torch_cuda": None,
    "driver": None,
    "driver_cuda": None,
    "nvidia_devices": 0,
    "devices": (),
}


def _found(check: Check, world: World, machine: Machine) -> tuple[Finding, ...]:
    world.after(AtEnvironment, lambda at: replace(at, machine=machine))
    report = climb(world.write(), checks=(check,), after=world.apply)
    assert report.stage == "environment"
    return report.findings


@pytest.mark.parametrize(
    ("training", "facts"),
    [
        ({}, BARE),
        ({"bf16": True}, {}),
        ({"use_cpu": True}, {"devices": (), "visible_devices": ""}),
        ({"use_cpu": True, "bf16": True}, BARE),
        ({"bf16": True}, {"torch_cuda": "13.0"}),
    ],
)
def test_sound_machines_are_left_alone(
    training: dict[str, Any], facts: dict[str, Any], tmp_path: Path
) -> None:
    world = sft_full(tmp_path)
    world.recipe["training"] |= training
    machine = replace(MACHINE, **facts)
    for check in (gpu_out_of_reach, cuda_newer_than_driver, precision_not_supported):
        assert not _found(check, world, machine), check.id


def test_old_driver_is_told_once(tmp_path: Path) -> None:
    aged = replace(MACHINE, devices=(), torch_cuda="13.0")
    world = sft_full(tmp_path)
    assert _found(cuda_newer_than_driver, world, aged) and not _found(gpu_out_of_reach, world, aged)


def test_older_minor_version_of_the_driver_is_no_fault(tmp_path: Path) -> None:
    aged = replace(MACHINE, devices=(), torch_cuda="12.9", visible_devices="")
    assert not _found(cuda_newer_than_driver, sft_full(tmp_path), aged)


def test_gpu_that_is_hidden_on_purpose_is_a_warning(tmp_path: Path) -> None:
    hidden = replace(MACHINE, devices=(), visible_devices="-1")
    (finding,) = _found(gpu_out_of_reach, sft_full(tmp_path), hidden)
    assert finding.severity == "warning"


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"visible_devices": ""}, "CUDA_VISIBLE_DEVICES"),
        (BARE, "no NVIDIA driver"),
        ({"nvidia_devices": 0}, "no device"),
        ({"torch_cuda": None}, "CPU build"),
        ({"torch_cuda": "13.0"}, "runs up to 12.8"),
        ({}, "does not start"),
    ],
)
def test_reason_is_named(facts: dict[str, Any], reason: str) -> None:
    assert reason in explain(replace(MACHINE, **{"devices": (), **facts}))[0]


@pytest.mark.parametrize("version", ["1.15.2", "1.16.0", "1.16", "1.16.3+cpu", "1.17.0", "2.0.0", "1.2"])
@pytest.mark.parametrize("bounds", [">=1.16,<1.17", ">=1.16", "<2", "==1.16.0", ">1.15, <=1.17", "!=1.16"])
def test_ranges_are_read_as_packaging_reads_them(version: str, bounds: str) -> None:
    # `==1.16` takes 1.16.0 and not 1.16.3+cpu in both.
    assert is_within(version, bounds) == SpecifierSet(bounds).contains(version)


@pytest.mark.parametrize(
    "training",
    [
        {"save_strategy": "no"},
        {"save_strategy": "epoch"},
        {"save_strategy": "epoch", "max_steps": 12},
        {"save_strategy": "steps", "save_steps": 5},
        {"save_strategy": "steps", "save_steps": 0.3},
    ],
)
def test_checkpoints_are_counted_as_they_are_written(training: dict[str, Any], tmp_path: Path) -> None:
    built = _built(training, tmp_path)
    built.trainer.train()
    assert count_kept(built) == len(list((tmp_path / "run").rglob("checkpoint-*")))


def test_limit_leaves_room_for_the_one_being_written(tmp_path: Path) -> None:
    training = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 2}
    assert count_kept(_built(training, tmp_path)) == 3


def _built(training: dict[str, Any], folder: Path) -> AtModel:
    world = sft_full(folder)
    world.recipe["training"] |= training
    at = ascend(world.write(), checks=(), upto=AtData, needed=AtData).at
    assert isinstance(at, AtData)
    return build_model(at, folder / "run")
