"""`method: dpo`, direct preference optimisation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ftrun.schemas.section import Section
from ftrun.schemas.sections import BaseRecipe, Model, PairData


class DpoModel(Model):
    """The policy that is trained, and how it is loaded."""

    reference: str | None = Field(default=None, min_length=1)
    """The frozen model that the policy is held to, written as `path` is and loaded as the policy is. Absent: the
    policy as it starts."""


class DpoEvaluation(Section):
    """Questions asked of the trained model."""

    generate: int | None = Field(default=None, ge=1)
    """Number of held-out prompts that are answered greedily, by the trained model and by the reference, after
    training; each answer is compared with the chosen and the rejected one. Absent: none."""

    max_new_tokens: int = Field(default=64, ge=1)
    """Longest answer that is generated."""


class Recipe(BaseRecipe):
    """A recipe for direct preference optimisation through TRL's DPOTrainer."""

    method: Literal["dpo"]
    """Direct preference optimisation."""

    model: DpoModel
    """The policy that is trained."""

    data: PairData
    """The pairs of the run."""

    evaluation: DpoEvaluation = Field(default_factory=DpoEvaluation)
    """Questions asked of the trained model."""
