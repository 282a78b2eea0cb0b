"""What holds a policy to its reference: PPO's KL coefficient, DPO's beta."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import Trainer

LEAST = 0.05
"""What a coefficient of 0 becomes: the default of `training.kl_coef`."""


def read_coefficient(trainer: Trainer) -> float:
    """That of a trainer of PPO or DPO, as it is now."""
    return float(trainer.ppo.kl_coef if hasattr(trainer, "ppo") else trainer.beta)


def write_coefficient(trainer: Trainer, value: float) -> None:
    """Train with another one from now on. PPO's is a part of its checkpoints; DPO's is not."""
    if hasattr(trainer, "ppo"):
        trainer.ppo = replace(trainer.ppo, kl_coef=value)
    else:
        trainer.beta = trainer.args.beta = value


def raise_coefficient(value: float, factor: float) -> float:
    """The next higher one."""
    return value * factor or LEAST
