"""Answers to held-out prompts: how far they are from what the reference would say, and a table of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ftrun.runner.ppo.experience import Sequences
from ftrun.runner.ppo.networks import Refer, judge_tokens
from ftrun.runner.ppo.rewards import Answer, Scores

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def measure_divergence(policy: PreTrainedModel, refer: Refer, sequences: Sequences, size: int) -> float:
    """KL(policy ‖ reference) of a response, in nats, mean of all.

    It is the exact one over the whole vocabulary at each token of the responses given, summed over them, at the
    temperature 1; `size` responses at a time.
    """
    total = 0.0
    for start in range(0, len(sequences), size):
        part = sequences.take(torch.arange(start, min(start + size, len(sequences))))
        inputs = part.ids, part.mask, part.width, 1.0
        own, _ = judge_tokens(policy, *inputs)
        with refer() as frozen:
            other, _ = judge_tokens(frozen, *inputs)
        each = (own.exp() * (own - other)).sum(-1)
        total += float((each * part.response_mask).sum())
    return total / len(sequences)


def tabulate(answers: list[Answer], scores: Scores, **columns: Any) -> list[dict[str, Any]]:
    """A row for each answer: its prompt, text, score and what the score sums; `columns` are the same in all."""
    return [
        {
            **columns,
            "prompt": answer.example["prompt"],
            "answer": answer.text,
            "score": float(scores.total[row]),
            **{name: float(part[row]) for name, part in scores.parts.items()},
        }
        for row, answer in enumerate(answers)
    ]
