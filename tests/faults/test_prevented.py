"""Faults that ftrun does not have: what would be one elsewhere makes a run like any other."""

from __future__ import annotations

from pathlib import Path

from tests.faults.materials import copy_model

from ftrun.checks.rows import Rows
from ftrun.checks.stages import AtData
from ftrun.checks.testing import World, sft_chat
from ftrun.runner.preflight import ascend

END = 3
"""`<|im_end|>` of `tiny`."""


def _train_rows(world: World) -> Rows:
    ascent = ascend(world.write(), checks=(), upto=AtData, needed=AtData)
    assert isinstance(ascent.at, AtData)
    return ascent.at.train


def test_padding_with_the_end_of_text_masks_no_end(tmp_path: Path) -> None:
    """T001, as a recipe can have it."""
    world = sft_chat(tmp_path)
    copy_model(world, tokenizer=lambda tokenizer: setattr(tokenizer, "pad_token", tokenizer.eos_token))
    rows = _train_rows(world)
    for row in rows:
        assert END in row.labels
