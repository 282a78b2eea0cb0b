"""What was planted blind: each run is told by a guard of its cause, and ends as its twin or stops."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tests.divergences.planted import Divergence, make_world
from tests.divergences.runs import Outcome, run_planted, run_twin
from tests.divergences.unforeseen import HARMLESS, list_unforeseen

from ftrun.runner.guarding.reach import MARGIN, find_jumps, find_reach

QUICK = ("adapters are replaced by noise", "dropout becomes", "sides of pairs are exchanged")
UNTOLD = ("the optimizer forgets what it knew",)
"""What no guard knows: the run is slowed for some steps, and goes on."""

ALL = [
    pytest.param(one, id=one.what, marks=() if any(word in one.what for word in QUICK) else pytest.mark.slow)
    for one in list_unforeseen()
    if not any(word in one.what for word in UNTOLD)
]


@pytest.mark.parametrize("planted", ALL)
def test_what_nobody_foresaw_is_told_and_mended(planted: Divergence, tmp_path: Path) -> None:
    ended: list[Outcome] = []
    for name in ("fault", "twin"):
        world = make_world(planted.make, tmp_path / name)
        planted.change(world)
        ended.append(run_planted(world, planted.plant) if not ended else run_twin(world, ended[0]))
        if not planted.transient:
            break
    fault = ended[0]
    assert (fault.events[0]["guard"] if fault.events else HARMLESS) in planted.told
    if planted.transient:
        assert math.isclose(fault.loss, ended[1].loss, rel_tol=0.05)


class Arguments:
    adam_beta1, adam_beta2, optim, optim_args = 0.9, 0.999, "adamw_torch", None
    learning_rate, weight_decay = 1e-3, 0.01


def test_adam_moves_no_weight_farther_than_its_reach() -> None:
    draw = torch.Generator().manual_seed(0)
    weights = torch.randn(4, 64, generator=draw).requires_grad_()
    optimizer = torch.optim.AdamW([weights], lr=1e-3)
    reach = find_reach(Arguments)
    assert reach is not None and 7.2 < reach / MARGIN < 7.4
    for step in range(300):
        before = weights.detach().clone()
        # The worst that there is: gradients that grow by β₂/β₁ each step.
        weights.grad = torch.full_like(weights, (0.999 / 0.9) ** (step % 150))
        optimizer.step()
        share = find_jumps(Arguments, [weights], before, weights.detach(), 1).max()
        assert share < 1 / MARGIN + 1e-3, step
    now = weights.detach()
    jumped = find_jumps(Arguments, [weights], now, now + 0.05, 1)
    assert (jumped > 1).all()
