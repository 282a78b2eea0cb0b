"""What only a CUDA device shows. Run with `pytest -m gpu` on a machine that has one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftrun.checks.stages import AtModel, AtStep
from ftrun.checks.testing import World, sft_full, sft_lora
from ftrun.runner.preflight import ascend
from ftrun.runner.printing.text import make_console
from ftrun.runner.run import run_recipe

pytestmark = pytest.mark.gpu


def build(world: World, stage: Any = AtModel) -> Any:
    folder = world.folder / "out"
    return ascend(world.write(), checks=(), folder=lambda file: folder, needed=stage).at


def test_full_fine_tuning_keeps_float32_weights_and_computes_in_bfloat16(tmp_path: Path) -> None:
    at = build(sft_full(tmp_path))
    assert {p.device.type for p in at.model.parameters()} == {"cuda"}
    assert {str(p.dtype) for p in at.model.parameters()} == {"torch.float32"}
    assert at.trainer.args.bf16


def test_lora_keeps_its_frozen_base_in_bfloat16(tmp_path: Path) -> None:
    at = build(sft_lora(tmp_path), AtStep)
    assert {str(p.dtype) for p in at.model.parameters() if not p.requires_grad} == {"torch.bfloat16"}
    assert at.step.failed is None


def test_qlora_trains_on_a_quantised_base(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    world = sft_lora(tmp_path)
    world.recipe["model"]["quantization"] = "4bit"
    at = build(world, AtStep)
    assert at.step.failed is None
    assert at.step.gradients and all(norm is not None for norm in at.step.gradients.values())


def test_a_whole_run(tmp_path: Path) -> None:
    console = make_console()
    assert run_recipe(sft_lora(tmp_path).write(), sets=[], ignore={}, out=console, err=console) == 0
