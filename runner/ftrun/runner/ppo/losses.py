"""The loss of an update."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from ftrun.runner.ppo.config import PPOConfig
from ftrun.runner.ppo.experience import Experience, read_grouped
from ftrun.runner.ppo.objective import (
    is_policy_clipped,
    is_value_clipped,
    mean_masked,
    policy_losses,
    value_losses,
)


def lose(
    model: nn.Module,
    experience: Experience,
    position: int,
    config: PPOConfig,
    known: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a micro-batch and its figures.

    The loss is its share of the mean over all tokens of its minibatch: the shares of a minibatch's micro-batches,
    and the means of these over processes, sum to what it would be whole. `model` is an ActorCritic, as the trainer has
    wrapped it; `known` what it says of the micro-batch, where that is known.
    """
    rows, count = experience.batches[position], config.gradient_accumulation_steps
    tokens = experience.tokens[position // count]
    part = experience.sequences.take(rows)
    on_device = rows.to(part.ids.device)
    old, old_values, advantages, returns = (
        table[on_device, : part.width]
        for table in (experience.logprobs, experience.values, experience.advantages, experience.returns)
    )
    read = partial(model, temperature=config.temperature)
    logprobs, values = known or read_grouped(read, part)
    mask = part.response_mask
    policy = policy_losses(logprobs, old, advantages, config.cliprange)
    value = value_losses(values, old_values, returns, config.cliprange_value)
    # `where`, since a product would keep what is not a number.
    policy_loss = torch.where(mask, policy, 0.0).sum() / tokens
    value_loss = torch.where(mask, value, 0.0).sum() / tokens
    with torch.no_grad():
        log_ratio = logprobs - old
        clipped = is_policy_clipped(logprobs, old, advantages, config.cliprange)
        held = is_value_clipped(values, old_values, returns, config.cliprange_value)
        figures = {
            "loss/policy": policy_loss.detach() * count,
            "loss/value": value_loss.detach() * count,
            "policy/approx_kl": mean_masked(0.5 * log_ratio**2, mask),
            "policy/ratio": mean_masked(log_ratio.exp(), mask),
            "policy/clipfrac": mean_masked(clipped.float(), mask),
            "value/clipfrac": mean_masked(held.float(), mask),
        }
    return policy_loss + config.vf_coef * value_loss, figures
