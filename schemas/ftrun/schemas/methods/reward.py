"""`method: reward`, a model that scores answers, learnt from pairs of them."""

from __future__ import annotations

from typing import Literal

from ftrun.schemas.sections import BaseRecipe, PairData


class Recipe(BaseRecipe):
    """A recipe for a reward model through TRL's RewardTrainer."""

    method: Literal["reward"]
    """A reward model."""

    data: PairData
    """The pairs of the run."""
