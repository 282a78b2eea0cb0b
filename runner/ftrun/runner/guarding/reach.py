"""How far an optimizer can take a weight."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MARGIN = 1.5
"""What is allowed beyond the bound: eight-bit moments are not exact."""


def find_reach(arguments: Any) -> float | None:
    """How many times the rate Adam moves a weight in a step at most, whatever the gradients: with m = Σ (1 − β₁) β₁ⁱ gᵢ
    and v = Σ (1 − β₂) β₂ⁱ gᵢ², m²/v is at most (1 − β₁)² / ((1 − β₂)(1 − β₁²/β₂)), by Cauchy and Schwarz. None where
    there is no such bound, or the arguments of training do not tell it."""
    first, second = float(arguments.adam_beta1), float(arguments.adam_beta2)
    plain = (
        str(getattr(arguments.optim, "value", arguments.optim)).removeprefix("paged_").startswith("adamw_")
    )
    if not plain or arguments.optim_args or first**2 >= second:
        return None
    return MARGIN * max(1.0, (1 - first) / math.sqrt((1 - second) * (1 - first**2 / second)))


def find_jumps(
    arguments: Any, tensors: Iterable[torch.Tensor], before: torch.Tensor, now: torch.Tensor, steps: int
) -> torch.Tensor:
    """How far the value that moved farthest did in so many steps, as a share of what it can at most: of samples of
    shape (tensors, values), a result of shape (tensors,). Zero where the optimizer has no bound."""
    import torch

    reach = find_reach(arguments)
    if reach is None or not len(now):
        return torch.zeros(len(now), device=now.device)
    way = steps * arguments.learning_rate * reach
    size = before.abs() + way
    rounding = torch.tensor([torch.finfo(one.dtype).eps for one in tensors], device=now.device)[:, None]
    decayed = steps * arguments.learning_rate * arguments.weight_decay * size
    most: torch.Tensor = (way + decayed + steps * rounding * size).clamp(min=1e-30)
    return ((now - before).abs() / most).amax(1)
