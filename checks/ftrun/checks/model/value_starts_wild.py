"""The value model starts with values far from any reward, or with none that are numbers.

Symptom: the value loss is in the hundreds at the first step, and the first updates follow its errors; the value
clipping then holds it there for a long time.
Cause: a head that was drawn at the scale of a classifier, half-precision weights, or a broken checkpoint.
Fix: start it from the policy (`value.path: policy`), whose head is drawn near 0, or from the reward model.
Source: a value head that starts at 0, in "The N Implementation Details of RLHF with PPO" (Huang 2023). Values beyond
10 are told: rewards are clipped there (OpenRLHF), and a value may move by `cliprange_value` in each pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    from ftrun.checks.testing import World

PROMPTS, COLUMNS, FAR = 8, 128, 10.0


@check("PPO006", title="the value model starts at sensible values", methods=("ppo",))
def value_starts_wild(at: AtModel) -> Iterator[Finding]:
    """Ask the value model about the first prompts."""
    import torch

    trainer: Any = at.trainer
    device = next(trainer.model.parameters()).device  # not yet the GPU's with FSDP
    found = []
    with torch.no_grad():
        for row in (at.train[i] for i in range(min(PROMPTS, len(at.train)))):
            ids = torch.tensor(row.ids[-COLUMNS:].tolist(), device=device)[None]
            if ids.shape[1] > 1:
                found.append(trainer.model(ids, torch.ones_like(ids), ids.shape[1] - 1, 1.0)[1].flatten())
    if not found:
        return
    values = torch.cat(found).float().cpu()
    broken = int((~values.isfinite()).sum())
    if broken:
        yield Finding(
            f"{broken} of {len(values)} values of the first {len(found)} prompts are no numbers.",
            "Start the value model from the policy, with value.path: policy.",
            at.where("value.path"),
        )
    elif float(values.abs().median()) > FAR and at.recipe.value.path != "reward":  # type: ignore[attr-defined]  # PPO's
        yield Finding(
            f"Half of the values of the first {len(found)} prompts are beyond {FAR:g}; their median is "
            f"{float(values.median()):.3g}.",
            "Start the value model from the policy, with value.path: policy, or from the reward model.",
            at.where("value.path"),
            severity="warning",
        )


@value_starts_wild.fault
def the_head_is_drawn_large(world: World) -> None:
    world.after(AtModel, lambda at: _scale(at, 1e4))


@value_starts_wild.fault
def the_head_is_broken(world: World) -> None:
    world.after(AtModel, lambda at: _scale(at, float("nan")))


def _scale(at: AtModel, factor: float) -> AtModel:
    trainer: Any = at.trainer
    trainer.model.value.score.weight.data *= factor
    return at
