"""From responses to experience: what the networks say of them, their rewards, advantages and figures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ftrun.runner.ppo.config import PPOConfig
from ftrun.runner.ppo.experience import Experience, Sequences, read_grouped
from ftrun.runner.ppo.networks import Refer, judge_tokens
from ftrun.runner.ppo.objective import (
    Moments,
    assemble_rewards,
    estimate_advantages,
    estimate_kl,
    explain_variance,
    mean_masked,
    scale_scores,
    variance_masked,
    whiten,
)
from ftrun.runner.ppo.pool import Pool
from ftrun.runner.ppo.rewards import Answer, Scores, share_unique


@dataclass(frozen=True, eq=False)
class Judgement:
    """What the networks say of the tokens of a rollout: tensors of shape (responses, width)."""

    logprobs: Tensor
    values: Tensor
    entropies: Tensor
    reference: Tensor

    first: tuple[Tensor, Tensor] | None
    """What policy and value model say of the first batch, with the graph that leads to it: what the first update
    would compute once more."""


@torch.no_grad()
def judge_sequences(
    model: nn.Module,
    refer: Refer,
    sequences: Sequences,
    batches: Tensor,
    temperature: float,
    *,
    keep_first: bool,
) -> Judgement:
    """Log-probabilities, by policy and reference, values and entropies.

    `batches`, of shape (batches, rows of each), are those of the first pass of training, so that training
    begins with the same numbers to the last bit: a kernel may add in another order for another shape.
    """
    shape = len(sequences), sequences.width
    tables = [torch.zeros(shape, device=sequences.ids.device) for _ in range(4)]
    parts = [(rows.to(sequences.ids.device), sequences.take(rows)) for rows in batches]
    first = None
    for rows, part in parts:
        with torch.set_grad_enabled(keep_first and first is None):
            found = read_grouped(partial(model, temperature=temperature), part)
        first = first or (found[0], found[1])
        for table, values in zip(tables, found, strict=False):
            table[rows, : part.width] = values.detach()
    with refer() as frozen:
        for rows, part in parts:
            (tables[3][rows, : part.width],) = read_grouped(
                lambda ids, mask, width: judge_tokens(frozen, ids, mask, width, temperature)[1:], part
            )
    logprobs, values, entropies, reference = (table * sequences.response_mask for table in tables)
    return Judgement(logprobs, values, entropies, reference, first if keep_first else None)


@dataclass(frozen=True, eq=False)
class Pooled:
    """What the processes of a rollout got, one after the other, in main memory."""

    answers: list[Answer]
    scores: Scores

    tokens: Tensor
    """Tokens of the responses of each minibatch, mean over processes: shape (minibatches of all passes,)."""


def pool_answers(
    answers: list[Answer], scores: Scores, lengths: Tensor, batches: Tensor, config: PPOConfig, pool: Pool
) -> Pooled:
    """What all processes of the pool got; of this one the `lengths` of its responses in tokens, of shape
    (responses,), and its micro-batches."""
    minibatches = batches.view(-1, config.gradient_accumulation_steps * batches.shape[1])
    each = pool.gather((answers, scores, lengths[minibatches].sum(1).double()))
    tokens = torch.stack([tokens for _, _, tokens in each]).mean(0).float()
    return Pooled(
        [answer for answers, _, _ in each for answer in answers], chain([one for _, one, _ in each]), tokens
    )


def chain(parts: list[Scores]) -> Scores:
    """The scores of several lists of answers, one after the other."""
    first = parts[0]
    return Scores(
        torch.cat([one.total for one in parts]),
        {name: torch.cat([one.parts[name] for one in parts]) for name in first.parts},
        None
        if first.disagreement is None
        else torch.cat([one.disagreement for one in parts if one.disagreement is not None]),
    )


def finish_scores(
    scores: Scores, answers: list[Answer], all_scores: Scores, moments: Moments, config: PPOConfig
) -> tuple[Tensor, Moments]:
    """Scores as they are trained on, scaled and clipped as the settings say, less the penalty of responses
    that were cut off; and the moments of all scores so far, `all_scores` being those of all processes."""
    total = scores.total
    if config.use_score_scaling:
        moments = moments.include(all_scores.total)
        total = scale_scores(total, moments, shift_mean=config.use_score_norm)
    if config.score_clip is not None:
        total = total.clamp(-config.score_clip, config.score_clip)
    if config.missing_eos_penalty is not None:
        cut = torch.tensor([not answer.ended for answer in answers])
        total = total - config.missing_eos_penalty * cut
    return total, moments


def make_experience(
    sequences: Sequences,
    judgement: Judgement,
    scores: Tensor,
    batches: Tensor,
    tokens: Tensor,
    kl_coef: float,
    config: PPOConfig,
    pool: Pool,
) -> tuple[Experience, dict[str, float]]:
    """Rewards, advantages and returns of a rollout, and its figures, which are those of all processes of the pool."""
    mask = sequences.response_mask
    kl = estimate_kl(judgement.logprobs, judgement.reference, config.kl_estimator)
    rewards = assemble_rewards(scores.to(mask.device), kl, mask, kl_coef)
    penalty = kl_coef * (kl * mask).sum(1)
    if config.whiten_rewards:
        rewards = whiten(rewards, mask, shift_mean=False, pool=pool)
    advantages, returns = estimate_advantages(
        rewards, judgement.values, mask, gamma=config.gamma, lam=config.lam
    )
    log_ratios = ((judgement.logprobs - judgement.reference) * mask).sum(1)
    rows = torch.ones_like(log_ratios, dtype=torch.bool)
    responses = len(sequences) * pool.processes
    paid, penalised = (mean_masked(one, rows, pool) for one in (scores.to(mask.device), penalty))
    figures = {
        "objective/kl": mean_masked(log_ratios, rows, pool),
        "objective/kl_stderr": (variance_masked(log_ratios, rows, pool) / responses).sqrt(),
        "objective/non_score_reward": -penalised,
        "objective/score": paid,
        "objective/rlhf_reward": paid - penalised,
        "value/mean": mean_masked(judgement.values, mask, pool),
        "value/explained_variance": explain_variance(judgement.values, returns, mask, pool),
        "policy/entropy": mean_masked(judgement.entropies, mask, pool),
    }
    if config.whiten_advantages:
        advantages = whiten(advantages, mask, pool=pool)
    experience = Experience(
        sequences, judgement.logprobs, judgement.values, advantages, returns, batches, tokens
    )
    return experience, {name: float(value) for name, value in figures.items()}


def describe_scores(scores: Scores) -> dict[str, float]:
    """Mean and spread of the score and of each of its parts."""
    figures = {"score/mean": scores.total.mean(), "score/std": scores.total.std(correction=0)}
    for name, part in scores.parts.items():
        figures |= {f"score/{name}": part.mean(), f"score/{name}_std": part.std(correction=0)}
    if scores.disagreement is not None:
        figures["score/disagreement"] = scores.disagreement.mean()
    return {name: float(value) for name, value in figures.items()}


def describe_answers(answers: list[Answer]) -> dict[str, float]:
    """Lengths in tokens, how many ended by themselves, and how many of their words are different ones."""
    count = len(answers)
    return {
        "response/length": sum(answer.length for answer in answers) / count,
        "response/ended": sum(answer.ended for answer in answers) / count,
        "response/unique_words": sum(share_unique(answer.text) for answer in answers) / count,
    }
