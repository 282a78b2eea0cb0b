"""The noise on the embeddings drowns them.

Symptom: the loss is flat and high.
Cause: `neftune_noise_alpha` far above the 5 to 15 of the paper.
Fix: set `training.neftune_noise_alpha` to 5, or remove it.
Prevention: try without it first.
Source: NEFTune (arXiv 2310.05914) uses 5, 10 and 15; a warning above 20.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.stages import AtRecipe

if TYPE_CHECKING:
    from ftrun.checks.testing import World

KEY = "training.neftune_noise_alpha"
MOST = 20


@check("TRAIN009", title="noise on the embeddings stays small", severity="warning")
def neftune_noise_absurd(at: AtRecipe) -> Iterator[Finding]:
    """Tell a noise above what anyone has reported to help."""
    alpha = at.recipe.training.get("neftune_noise_alpha")
    if alpha is None:
        raise NotApplicable("no noise is added to the embeddings")
    if alpha > MOST:
        yield Finding(
            message=f"training.neftune_noise_alpha is {alpha:g}; the paper uses 5 to 15.",
            fix="Set training.neftune_noise_alpha to 5, or remove it.",
            where=at.where(KEY),
            patch=Patch(KEY, 5.0),
        )


@neftune_noise_absurd.fault
def an_alpha_of_five_hundred(world: World) -> None:
    """Two digits too many."""
    world.recipe["training"]["neftune_noise_alpha"] = 500
