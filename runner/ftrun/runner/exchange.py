"""The rows of a batch with each other's prompts: the answers that do not heed their prompts are not hurt by it."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftrun.checks.rows import IGNORED
from ftrun.runner.trial import Batch, NotMade

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Part:
    """Where the answer of a row begins and ends, and the prompt before it."""

    start: int
    end: int
    prompt: tuple[int, ...]
    answer: tuple[int, ...]


def exchange_prompts(method: str, batch: Batch) -> dict[str, Any]:
    """The batch with the prompt of another row before each answer, in a table as wide as before.

    A longer prompt loses its beginning. Of pairs both sides are given the same other prompt. Raises NotMade where
    the batch has no prompts apart from answers, or nothing to exchange.
    """
    if "position_ids" in batch or "seq_lengths" in batch:
        raise NotMade("the batch is one row of documents")
    if "ref_chosen_logps" in batch:
        raise NotMade("the reference's log-probabilities are those of the true prompts")
    parts = read_parts(method, batch)
    pairs = len(parts) // (1 if method == "sft" else 2)
    if pairs < 2:
        raise NotMade("the batch is one row")
    if not all(part.prompt for part in parts):
        raise NotMade("rows of the batch have no prompt before their answer")
    if len({part.prompt for part in parts}) == 1:
        raise NotMade("all prompts of the batch are alike")
    if len({part.answer for part in parts[:pairs]}) == 1:
        raise NotMade("all answers of the batch are alike")
    turn = _choose_turn(parts[:pairs])
    donors = [start + (row + turn) % pairs for start in range(0, len(parts), pairs) for row in range(pairs)]
    return {
        name: _splice(value, parts, donors, IGNORED if name == "labels" else 0)
        if hasattr(value, "dim") and value.dim() == 2
        else value
        for name, value in batch.items()
    }


def _choose_turn(parts: Sequence[Part]) -> int:
    """By how many rows to turn the prompts so that most of the rows have another prompt and another answer."""

    def differing(turn: int) -> int:
        others = [*parts[turn:], *parts[:turn]]
        return sum(a.prompt != b.prompt and a.answer != b.answer for a, b in zip(parts, others, strict=True))

    return max(range(1, len(parts)), key=differing)


def _splice(value: torch.Tensor, parts: Sequence[Part], donors: Sequence[int], filler: int) -> torch.Tensor:
    import torch

    made = torch.full_like(value, filler)
    for row, (part, donor) in enumerate(zip(parts, donors, strict=True)):
        answer = value[row, part.start : part.end]
        room = value.shape[1] - len(answer)
        prompt = value[donor, : parts[donor].start]
        prompt = prompt[max(0, len(prompt) - room) :]
        made[row, : len(prompt)] = prompt
        made[row, len(prompt) : len(prompt) + len(answer)] = answer
    return made


def read_parts(method: str, batch: Batch) -> list[Part]:
    """Answers from their first trained token to their last one. Sides of a reward model, of which nothing is
    marked, begin to differ where their answers begin."""
    ids = batch["input_ids"].tolist()
    if method == "reward":
        ends = [_span(row)[1] for row in batch["attention_mask"].tolist()]
        half = len(ids) // 2
        shared = [_count_shared(a, b) for a, b in zip(ids[:half], ids[half:], strict=True)]
        spans = list(zip([*shared, *shared], ends, strict=True))
    else:
        trained = batch["labels"] != IGNORED if method == "sft" else batch["completion_mask"] != 0
        spans = [_span(row) for row in trained.tolist()]
    return [
        Part(start, end, tuple(row[:start]), tuple(row[start:end]))
        for row, (start, end) in zip(ids, spans, strict=True)
    ]


def _count_shared(one: Sequence[int], other: Sequence[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), len(one))


def _span(trained: Sequence[bool]) -> tuple[int, int]:
    places = [place for place, is_trained in enumerate(trained) if is_trained]
    return (places[0], places[-1] + 1) if places else (0, 0)


def answer_floor(batch: Batch) -> float:
    """The lowest loss per trained token that any model of the batch can reach.

    What is equal so far and goes on differently can only be guessed by its shares, which costs their entropy.
    """
    followers: defaultdict[int, Counter[int]] = defaultdict(Counter)
    for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        seen = 0
        for place, (token, label) in enumerate(zip(ids, labels, strict=True)):
            if label != IGNORED and place > 0:
                followers[seen][label] += 1
            seen = hash((seen, token))
    counts = [(count, after.total()) for after in followers.values() for count in after.values()]
    trained = sum(count for count, _ in counts)
    return sum(count * math.log(total / count) for count, total in counts) / trained if trained else 0.0
