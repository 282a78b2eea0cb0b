"""Prompts as the trainer draws them: a rollout's at a time, as often as the rollout is trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from ftrun.runner.ppo.generation import pad_left
from ftrun.runner.ppo.schedule import count_rollouts

if TYPE_CHECKING:
    import datasets


class Prompts(Dataset[dict[str, Any]]):
    """The rows of a data set with the column `input_ids`, each with its number."""

    def __init__(self, rows: datasets.Dataset) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        found = self.rows[indices]["input_ids"]
        return [{"input_ids": ids, "index": index} for ids, index in zip(found, indices, strict=True)]


@dataclass(frozen=True)
class PromptCollator:
    """Prompts, padded on their left, as tensors; `index` is their number in the data set."""

    pad_token_id: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` of shape (prompts, longest), `index` of shape (prompts, 1)."""
        ids, mask = pad_left([row["input_ids"] for row in rows], self.pad_token_id, torch.device("cpu"))
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "index": torch.tensor([[row["index"]] for row in rows]),
        }


def strip_padding(ids: Tensor, mask: Tensor) -> list[list[int]]:
    """The prompts of a batch without their padding."""
    lengths = mask.sum(1).tolist()
    return [row[len(row) - length :] for row, length in zip(ids.tolist(), lengths, strict=True)]


class RolloutBatches(Sampler[list[int]]):
    """Batches of row numbers: every batch is a rollout, and comes `repeats` times.

    Each epoch has its own order, drawn from the seed and the epoch alone. Rows that do not fill a rollout stay
    out of the epoch; where all rows together do not, rows repeat. Where several processes take the batches in
    turn, as accelerate's `BatchSamplerShard` deals them, each keeps to rollouts of its own.
    """

    drop_last = True

    def __init__(self, rows: int, size: int, repeats: int, processes: int, seed: int) -> None:
        self.rows = rows
        self.batch_size = size
        self.repeats = repeats
        self.processes = processes
        self.seed = seed
        self.epoch = 0

    @property
    def sampler(self) -> RolloutBatches:
        """Where accelerate looks for what has an epoch, when it has wrapped these batches."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return count_rollouts(self.rows, self.batch_size * self.processes) * self.processes * self.repeats

    def __iter__(self) -> Iterator[list[int]]:
        together = self.batch_size * self.processes
        rollouts = count_rollouts(self.rows, together)
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.rows)
        for group in np.resize(order, (rollouts, self.processes, self.batch_size)).tolist():
            for _ in range(self.repeats):
                yield from group
