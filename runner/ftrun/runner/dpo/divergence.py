"""KL(policy‖reference), measured on a few held-out pairs that stay the same for the whole run.

At every token of an answer both models give a whole distribution p and q of the next token, and the sum
Σ p · (log p − log q) over the vocabulary is exact there: nothing is sampled. What is not exact is the choice of
texts: the divergence of two sequence models is an expectation over answers of the policy itself, and these are
the chosen and rejected answers of the data, the same ones at every measurement, so that figures of a run, and of
runs on the same data, can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftrun.checks.reference import Batch, collate, reference_of, without_dropout

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, Trainer

KEPT_BYTES = 2**30
"""Main memory for the reference's distributions where no reference is kept: 1,700 tokens of 150,000 words."""

TOKENS = 256
"""Tokens whose distributions are compared at a time, which bounds the memory on the device."""


@dataclass(frozen=True)
class Divergence:
    """In nats."""

    per_answer: float
    """The sum over the tokens of an answer, averaged over the answers."""

    per_token: float

    narrowed: float
    """How much of `per_answer` is entropy that the policy has lost: Σ H(q) − H(p). The rest, Σ (q − p) log q, is what
    its answers are less likely under the reference than the reference's own."""


def choose_pairs(trainer: Trainer, count: int) -> list[Batch]:
    """The first held-out pairs, each a batch of its own: no padding, and memory for one pair at a time."""
    dataset: Any = trainer.eval_dataset
    return [collate(trainer, dataset, i, 1) for i in range(min(count, len(dataset)))]


def keep_distributions(trainer: Trainer, pairs: Sequence[Batch]) -> list[torch.Tensor]:
    """The model's distributions on as many of the pairs as fit into KEPT_BYTES, and on the first in any case."""
    kept: list[torch.Tensor] = []
    with without_dropout(trainer.model):
        for pair in pairs:
            logits = _answer_logits(trainer, trainer.model, pair).cpu()
            total = sum(one.nbytes for one in kept) + logits.nbytes
            if kept and total > KEPT_BYTES:
                break
            kept.append(logits)
    return kept


def measure_divergence(
    trainer: Trainer, pairs: Sequence[Batch], kept: Sequence[torch.Tensor] = ()
) -> Divergence:
    """KL(policy‖reference) over the answers of `pairs`. `kept`: the reference's logits on them, where no
    reference is there to ask."""
    pairs = pairs[: len(kept)] if kept else pairs
    sums, lost = [], []
    with without_dropout(trainer.model):
        for index, pair in enumerate(pairs):
            theirs = kept[index] if kept else _reference_logits(trainer, pair)
            kl, narrowed = _divergence(_answer_logits(trainer, trainer.model, pair), theirs)
            sums.append(kl)
            lost.append(narrowed)
    tokens = sum(int(pair["completion_mask"][:, 1:].sum()) for pair in pairs)
    answers = 2 * len(pairs)
    return Divergence(sum(sums) / answers, sum(sums) / max(1, tokens), sum(lost) / answers)


def _reference_logits(trainer: Trainer, pair: Batch) -> torch.Tensor:
    with reference_of(trainer) as reference:
        assert reference is not None, "without a reference its logits are kept"
        return _answer_logits(trainer, reference, pair)


def _answer_logits(trainer: Trainer, model: PreTrainedModel, pair: Batch) -> torch.Tensor:
    """Logits at the answers' tokens of both sides: shape (tokens, vocabulary)."""
    import torch

    with torch.no_grad(), trainer.accelerator.autocast():
        output: Any = model(
            input_ids=pair["input_ids"], attention_mask=pair["attention_mask"], use_cache=False
        )
    logits: torch.Tensor = output.logits[:, :-1][pair["completion_mask"][:, 1:].bool()]
    return logits


def _divergence(policy: torch.Tensor, reference: torch.Tensor) -> tuple[float, float]:
    """Σ over tokens of Σ p (log p − log q), and of Σ p log p − Σ q log q, in float32."""
    total = narrowed = 0.0
    for start in range(0, len(policy), TOKENS):
        ours, theirs = (
            logits[start : start + TOKENS].to(policy.device).float().log_softmax(-1)
            for logits in (policy, reference)
        )
        total += float((ours.exp() * (ours - theirs)).sum())
        narrowed += float((ours.exp() * ours - theirs.exp() * theirs).sum())
    return total, narrowed
