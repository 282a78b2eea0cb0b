"""The formulas of PPO with a KL penalty, on tensors of shape (responses, tokens).

`mask` is true for the tokens of a response up to and with the one that ends it, and false behind that.

Sources: Schulman 2017, Proximal Policy Optimization Algorithms (arXiv 1707.06347); Schulman 2015, generalised
advantage estimation (arXiv 1506.02438); Ziegler 2019, Fine-Tuning Language Models from Human Preferences (arXiv
1909.08593); Schulman 2020, Approximating KL Divergence (joschu.net/blog/kl-approx.html); Huang 2023, The N
Implementation Details of RLHF with PPO (huggingface.co/blog/the_n_implementation_details_of_rlhf_with_ppo).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ftrun.runner.ppo.pool import ALONE, Pool

EPSILON = 1e-8
"""Keeps a division by a variance of 0 finite."""


def mean_masked(values: Tensor, mask: Tensor, pool: Pool = ALONE) -> Tensor:
    """The mean of `values` where `mask` is true, over all processes of the pool."""
    sums = pool.sum(torch.stack([torch.where(mask, values, 0.0).sum(), mask.sum()]))
    return sums[0] / sums[1]


def variance_masked(values: Tensor, mask: Tensor, pool: Pool = ALONE) -> Tensor:
    """The variance of `values` where `mask` is true, over all processes of the pool."""
    return mean_masked((values - mean_masked(values, mask, pool)) ** 2, mask, pool)


def whiten(values: Tensor, mask: Tensor, *, shift_mean: bool = True, pool: Pool = ALONE) -> Tensor:
    """Values that have, with those of all processes of the pool, the variance 1, and the mean 0 or, without
    `shift_mean`, their own; 0 outside the mask.

    Whitening of rewards keeps their mean, that of advantages does not: Huang 2023, "Reward whitening" and
    "Advantage whitening".
    """
    mean = mean_masked(values, mask, pool)
    centred = values - mean
    white = centred * torch.rsqrt(mean_masked(centred**2, mask, pool) + EPSILON)
    return torch.where(mask, white if shift_mean else white + mean, 0.0)


def estimate_kl(logprobs: Tensor, reference: Tensor, estimator: Literal["k1", "k3"]) -> Tensor:
    """Estimates of KL(policy ‖ reference) of each token, in nats, from tokens that the policy sampled.

    With log r = reference − logprobs: k1 = −log r is unbiased; k3 = r − 1 − log r is unbiased, never negative
    and of lower variance (Schulman 2020).
    """
    log_ratio = reference - logprobs
    return -log_ratio if estimator == "k1" else log_ratio.exp() - 1 - log_ratio


def assemble_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """The reward of each token: −kl_coef × KL, and on a response's last token its score besides.

    Ziegler 2019, equation 2, with the penalty per token: Huang 2023, "Per-token KL penalty". `scores` is of
    shape (responses,).
    """
    rewards = torch.where(mask, -kl_coef * kl, 0.0)
    last = mask.sum(1, keepdim=True) - 1
    return rewards.scatter_add(1, last, scores.to(rewards.dtype)[:, None])


def estimate_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Advantages by generalised advantage estimation, and returns: advantages plus values; 0 outside the mask.

    δ(t) = r(t) + γ V(t+1) − V(t);  A(t) = δ(t) + γ λ A(t+1) (Schulman 2015, equation 16). A response ends with
    its last token: V is 0 behind it.
    """
    values = torch.where(mask, values, 0.0)
    rewards = torch.where(mask, rewards, 0.0)
    following = torch.nn.functional.pad(values[:, 1:], (0, 1))
    deltas = (rewards + gamma * following - values).unbind(1)
    advantage = torch.zeros_like(deltas[0])
    backwards = []
    for delta in reversed(deltas):
        advantage = delta + gamma * lam * advantage
        backwards.append(advantage)
    advantages = torch.where(mask, torch.stack(backwards[::-1], 1), 0.0)
    return advantages, advantages + values


def policy_losses(logprobs: Tensor, old: Tensor, advantages: Tensor, cliprange: float) -> Tensor:
    """The clipped loss of each token: max(−ratio × A, −clip(ratio, 1 − ε, 1 + ε) × A) (Schulman 2017,
    equation 7, with the sign of a loss)."""
    ratio = torch.exp(logprobs - old)
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - cliprange, 1 + cliprange))


def value_losses(values: Tensor, old: Tensor, returns: Tensor, cliprange: float) -> Tensor:
    """The clipped loss of each value: half the larger of its squared errors before and after it is held within
    `cliprange` of that of the rollout (Huang 2023, "Value function loss clipping")."""
    held = torch.clamp(values, old - cliprange, old + cliprange)
    return 0.5 * torch.maximum((values - returns) ** 2, (held - returns) ** 2)


def is_policy_clipped(logprobs: Tensor, old: Tensor, advantages: Tensor, cliprange: float) -> Tensor:
    """Where the clipped side of the policy's loss is the larger one, so that the token has no gradient."""
    ratio = torch.exp(logprobs - old)
    return ((ratio > 1 + cliprange) & (advantages > 0)) | ((ratio < 1 - cliprange) & (advantages < 0))


def is_value_clipped(values: Tensor, old: Tensor, returns: Tensor, cliprange: float) -> Tensor:
    """Where the value is held and its held error is the larger one, so that it has no gradient."""
    held = torch.clamp(values, old - cliprange, old + cliprange)
    clipped: Tensor = (held - returns) ** 2 > (values - returns) ** 2
    return clipped


def adapt_kl_coef(coef: float, kl: float, target: float, horizon: int, responses: int) -> float:
    """The next coefficient after `responses` responses with a mean KL of `kl`: coef × (1 + e × responses /
    horizon), with the proportional error e = clip(kl / target − 1, −0.2, 0.2) (Ziegler 2019, section 2.2)."""
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coef * (1 + error * responses / horizon)


def explain_variance(values: Tensor, returns: Tensor, mask: Tensor, pool: Pool = ALONE) -> Tensor:
    """1 − Var(returns − values) / Var(returns): 1 for values that foretell every return, 0 for constant ones."""
    errors = variance_masked(returns - values, mask, pool)
    return 1 - errors / (variance_masked(returns, mask, pool) + EPSILON)


@dataclass(frozen=True)
class Moments:
    """Count, mean and variance of all scores so far."""

    count: int = 0
    mean: float = 0.0
    variance: float = 0.0

    def include(self, scores: Tensor) -> Moments:
        """With a batch more, by the pairwise formula of Chan, Golub and LeVeque (1983)."""
        added = len(scores)
        count = self.count + added
        batch_mean = float(scores.mean())
        difference = batch_mean - self.mean
        squares = (
            self.variance * self.count
            + float(scores.var(correction=0)) * added
            + difference**2 * self.count * added / count
        )
        return Moments(count, self.mean + difference * added / count, squares / count)


def scale_scores(scores: Tensor, moments: Moments, *, shift_mean: bool) -> Tensor:
    """Scores divided by their standard deviation over all responses so far, less their mean where asked."""
    shifted = scores - moments.mean if shift_mean else scores
    return shifted / float((moments.variance + EPSILON) ** 0.5)
