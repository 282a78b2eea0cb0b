"""Every formula of PPO against a few lines of NumPy that go token by token."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ftrun.runner.ppo.objective import (
    Moments,
    adapt_kl_coef,
    assemble_rewards,
    estimate_advantages,
    estimate_kl,
    explain_variance,
    is_policy_clipped,
    is_value_clipped,
    mean_masked,
    policy_losses,
    scale_scores,
    value_losses,
    whiten,
)

LENGTHS = [1, 4, 7, 3]
RNG = np.random.default_rng(0)
MASK = np.arange(7)[None, :] < np.array(LENGTHS)[:, None]


def draw(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape or MASK.shape)


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array)


def test_advantages_and_returns_are_those_of_the_recursion() -> None:
    rewards, values = draw(), draw()
    advantages, returns = estimate_advantages(
        tensor(rewards), tensor(values), tensor(MASK), gamma=0.9, lam=0.8
    )
    for row, length in enumerate(LENGTHS):
        expected = np.zeros(MASK.shape[1])
        after = 0.0
        for t in reversed(range(length)):
            following = values[row, t + 1] if t + 1 < length else 0.0
            after = rewards[row, t] + 0.9 * following - values[row, t] + 0.9 * 0.8 * after
            expected[t] = after
        np.testing.assert_allclose(advantages[row], expected, rtol=1e-12)
        np.testing.assert_allclose(
            returns[row, :length], expected[:length] + values[row, :length], rtol=1e-12
        )
        assert not returns[row, length:].any()


def test_without_discount_and_with_lambda_1_the_return_is_the_sum_of_rewards() -> None:
    rewards, values = draw(), draw()
    _, returns = estimate_advantages(tensor(rewards), tensor(values), tensor(MASK), gamma=1.0, lam=1.0)
    expected = np.where(MASK, np.cumsum((rewards * MASK)[:, ::-1], axis=1)[:, ::-1], 0)
    np.testing.assert_allclose(returns, expected, rtol=1e-12)


def test_what_stands_behind_the_end_changes_nothing() -> None:
    rewards, values, noise = draw(), draw(), draw() * 1e6
    same = [
        estimate_advantages(tensor(r), tensor(v), tensor(MASK), gamma=0.99, lam=0.95)
        for r, v in (
            (rewards, values),
            (np.where(MASK, rewards, noise), np.where(MASK, values, noise)),
        )
    ]
    assert torch.equal(same[0][0], same[1][0])
    assert torch.equal(same[0][1], same[1][1])
    assert torch.equal(
        whiten(tensor(rewards), tensor(MASK)), whiten(tensor(np.where(MASK, rewards, noise)), tensor(MASK))
    )


def test_the_score_is_on_the_last_token_and_the_penalty_on_every_one() -> None:
    scores, kl = draw(len(LENGTHS)), draw()
    rewards = assemble_rewards(tensor(scores), tensor(kl), tensor(MASK), 0.3)
    expected = np.where(MASK, -0.3 * kl, 0.0)
    for row, length in enumerate(LENGTHS):
        expected[row, length - 1] += scores[row]
    np.testing.assert_allclose(rewards, expected, rtol=1e-12)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_kl_estimators_agree_with_the_exact_kl_on_average(estimator: str) -> None:
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.5, 0.3])
    exact = float((p * np.log(p / q)).sum())
    kl = estimate_kl(tensor(np.log(p)), tensor(np.log(q)), estimator)  # type: ignore[arg-type]
    assert float((tensor(p) * kl).sum()) == pytest.approx(exact)
    ratio = q / p
    expected = -np.log(ratio) if estimator == "k1" else ratio - 1 - np.log(ratio)
    np.testing.assert_allclose(kl, expected)


def test_whitening() -> None:
    values = draw() * 3 + 5
    inside = values[MASK]
    white = whiten(tensor(values), tensor(MASK)).numpy()
    np.testing.assert_allclose(white[MASK], (inside - inside.mean()) / inside.std(), rtol=1e-6)
    kept = whiten(tensor(values), tensor(MASK), shift_mean=False).numpy()
    np.testing.assert_allclose(kept[MASK], (inside - inside.mean()) / inside.std() + inside.mean(), rtol=1e-6)
    assert not white[~MASK].any() and not kept[~MASK].any()
    assert float(mean_masked(tensor(values), tensor(MASK))) == pytest.approx(inside.mean())


def test_policy_losses_and_where_they_are_clipped() -> None:
    new, old, advantages = draw() * 0.3, draw() * 0.3, draw()
    ratio = np.exp(new - old)
    expected = np.maximum(-advantages * ratio, -advantages * np.clip(ratio, 0.8, 1.2))
    logprobs = tensor(new).requires_grad_()
    losses = policy_losses(logprobs, tensor(old), tensor(advantages), 0.2)
    np.testing.assert_allclose(losses.detach(), expected, rtol=1e-12)
    torch.autograd.backward(losses.sum())
    clipped = is_policy_clipped(tensor(new), tensor(old), tensor(advantages), 0.2)
    assert logprobs.grad is not None
    assert torch.equal(logprobs.grad == 0, clipped)
    assert 0 < int(clipped.sum()) < clipped.numel()


def test_value_losses_and_where_they_are_clipped() -> None:
    new, old, returns = draw(), draw(), draw()
    held = np.clip(new, old - 0.2, old + 0.2)
    expected = 0.5 * np.maximum((new - returns) ** 2, (held - returns) ** 2)
    values = tensor(new).requires_grad_()
    losses = value_losses(values, tensor(old), tensor(returns), 0.2)
    np.testing.assert_allclose(losses.detach(), expected, rtol=1e-12)
    torch.autograd.backward(losses.sum())
    clipped = is_value_clipped(tensor(new), tensor(old), tensor(returns), 0.2)
    assert values.grad is not None
    assert torch.equal(values.grad == 0, clipped)
    assert 0 < int(clipped.sum()) < clipped.numel()


def test_the_kl_controller_follows_its_error_and_no_further_than_a_fifth() -> None:
    assert adapt_kl_coef(0.1, kl=6.6, target=6.0, horizon=10_000, responses=64) == pytest.approx(
        0.1 * (1 + 0.1 * 64 / 10_000)
    )
    assert adapt_kl_coef(0.1, kl=600.0, target=6.0, horizon=100, responses=50) == pytest.approx(0.1 * 1.1)
    assert adapt_kl_coef(0.1, kl=0.0, target=6.0, horizon=100, responses=50) == pytest.approx(0.1 * 0.9)
    assert adapt_kl_coef(0.1, kl=6.0, target=6.0, horizon=100, responses=50) == 0.1


def test_explained_variance() -> None:
    returns, values = draw(), draw()
    expected = 1 - np.var((returns - values)[MASK]) / np.var(returns[MASK])
    assert float(explain_variance(tensor(values), tensor(returns), tensor(MASK))) == pytest.approx(expected)
    assert float(explain_variance(tensor(returns), tensor(returns), tensor(MASK))) == 1.0


def test_running_moments_are_those_of_all_scores_together() -> None:
    batches = [draw(5) * 3 + 1, draw(1), draw(12) - 4]
    moments = Moments()
    for batch in batches:
        moments = moments.include(tensor(batch))
    together = np.concatenate(batches)
    assert (moments.count, moments.mean, moments.variance) == pytest.approx(
        (18, together.mean(), together.var())
    )
    np.testing.assert_allclose(
        scale_scores(tensor(together), moments, shift_mean=True),
        (together - together.mean()) / together.std(),
    )
    np.testing.assert_allclose(
        scale_scores(tensor(together), moments, shift_mean=False), together / together.std()
    )
