"""`method: sft`, supervised fine-tuning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ftrun.schemas.section import Section
from ftrun.schemas.sections import BaseRecipe, Data


class SftData(Data):
    """The rows of a supervised run."""

    loss_on: Literal["completion", "assistant", "all"] | None = None
    """Which tokens are trained: `completion`, the answer (in a conversation its last turn); `assistant`, every
    turn of the assistant; `all`. Absent: `completion` for rows with a prompt and an answer, `assistant` for
    conversations, `all` for text."""


class SftEvaluation(Section):
    """Questions asked of the trained model."""

    exact_match: int | None = Field(default=None, ge=1)
    """Number of held-out rows whose answer is generated greedily and compared with the row's own, after
    training. Absent: none."""

    max_new_tokens: int = Field(default=64, ge=1)
    """Longest answer that is generated."""


class Recipe(BaseRecipe):
    """A recipe for supervised fine-tuning through TRL's SFTTrainer."""

    method: Literal["sft"]
    """Supervised fine-tuning."""

    data: SftData
    """The rows of the run."""

    evaluation: SftEvaluation = Field(default_factory=SftEvaluation)
    """Questions asked of the trained model."""
