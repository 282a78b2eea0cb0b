"""`method: dpo`, direct preference optimisation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ftrun.schemas.sections import BaseRecipe, Model, PairData


class DpoModel(Model):
    """The policy that is trained, and how it is loaded."""

    reference: str | None = Field(default=None, min_length=1)
    """The frozen model that the policy is held to, written as `path` is. Absent: the policy as it starts."""


class Recipe(BaseRecipe):
    """A recipe for direct preference optimisation through TRL's DPOTrainer."""

    method: Literal["dpo"]
    """Direct preference optimisation."""

    model: DpoModel
    """The policy that is trained."""

    data: PairData
    """The pairs of the run."""
