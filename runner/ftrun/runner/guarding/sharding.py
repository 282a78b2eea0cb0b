"""Whether each process has a part of the model, and what cannot be told then."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ftrun.checks.check import Check
from ftrun.runner.guarding.inspection import GUARDS

if TYPE_CHECKING:
    from transformers import Trainer


def is_sharded(trainer: Trainer) -> bool:
    """Whether a process has parts of tensors, as with FSDP and DeepSpeed."""
    return bool(trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)


def list_off(guards: Iterable[Check]) -> list[str]:
    """The names of those guards that are off for a sharded model: they look at tensors, or ask the whole model."""
    return [one.name for one in guards if one.name in {*GUARDS, "knowledge_forgotten"}]
