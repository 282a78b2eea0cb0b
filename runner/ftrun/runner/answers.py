"""Asking the trained model: held-out prompts are answered greedily and compared with the rows' own answers.

Prompts and answers are taken from the rows as they train: the prompt is what stands before the last trained
span, the answer is that span. No template is rendered a second time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ftrun.checks.rows import IGNORED, Row, Rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Answer:
    """One answer of the model, beside the one that the row holds."""

    prompt: str
    expected: str
    given: str

    @property
    def exact(self) -> bool:
        """Whether both are the same text, but for white space at the ends."""
        return self.expected.strip() == self.given.strip()


def answer_rows(
    rows: Rows,
    count: int,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: frozenset[int],
    *,
    max_new_tokens: int,
    batch_size: int = 64,
) -> tuple[Answer, ...]:
    """Answers to the first `count` rows that have a prompt and were not cut."""
    asked = [pair for pair in map(divide, _whole(rows)) if pair is not None][:count]
    prompts = [prompt for prompt, _ in asked]
    given = generate(
        prompts, model, tokenizer, stop_ids, max_new_tokens=max_new_tokens, batch_size=batch_size
    )
    texts = ([tokenizer.decode(part, skip_special_tokens=True) for part in pair] for pair in asked)
    return tuple(
        Answer(prompt, expected, text) for (prompt, expected), text in zip(texts, given, strict=True)
    )


def generate(
    prompts: Sequence[list[int]],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: frozenset[int],
    *,
    max_new_tokens: int,
    batch_size: int = 64,
) -> list[str]:
    """A greedy answer to each prompt, in their order, without special tokens."""
    # Prompts of like length together: less padding, and the longest first tells early what memory it takes.
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    answers: dict[int, str] = {}
    was_training = model.training
    model.eval()
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        given = _generate([prompts[i] for i in chosen], model, tokenizer, stop_ids, max_new_tokens)
        answers.update(zip(chosen, given, strict=True))
    model.train(was_training)
    return [answers[i] for i in range(len(prompts))]


def _whole(rows: Rows) -> Iterator[Row]:
    return (row for row in rows if not row.truncated)


def divide(row: Row) -> tuple[list[int], list[int]] | None:
    """Token ids before the last trained span, and of that span; None where nothing stands before it."""
    trained = np.flatnonzero(row.labels != IGNORED)
    if not len(trained):
        return None
    end = int(trained[-1]) + 1
    masked = np.flatnonzero(row.labels[:end] == IGNORED)
    if not len(masked):
        return None
    start = int(masked[-1]) + 1
    return row.ids[:start].tolist(), row.ids[start:end].tolist()


def _generate(
    prompts: Sequence[list[int]],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    stop_ids: frozenset[int],
    max_new_tokens: int,
) -> list[str]:
    import torch

    width = max(len(prompt) for prompt in prompts)
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor(
        [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device
    )
    options: dict[str, Any] = {
        "do_sample": False,
        "max_new_tokens": max_new_tokens,
        "eos_token_id": sorted(stop_ids) or None,
        "pad_token_id": pad,
    }
    with torch.no_grad():
        # A sampling model's temperature and top-p would only raise warnings beside do_sample=False.
        written = model.generate(
            input_ids=ids, attention_mask=mask, temperature=None, top_p=None, top_k=None, **options
        )
    return [tokenizer.decode(row[width:], skip_special_tokens=True) for row in written]
