"""The longest batch first: so that memory runs out before training, and not in its ninth hour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ftrun.checks.experiments import LongestBatch
from ftrun.checks.stages import AtModel
from ftrun.runner.trial import NotMade, differentiate, need_labels

if TYPE_CHECKING:
    from transformers import Trainer


def try_longest(at: AtModel) -> LongestBatch:
    """A forward and backward pass on as many of the longest rows as a batch holds, with all else in memory.

    Raises NotMade where there is no CUDA device, whose memory would be measured.
    """
    import torch

    need_labels(at)
    trainer = at.trainer
    if trainer.args.device.type != "cuda":
        raise NotMade("memory is measured on CUDA devices alone")
    torch.cuda.reset_peak_memory_stats()
    rows, error = longest_rows(trainer, trainer.args.train_batch_size), None
    try:
        run_rows(trainer, rows)
    except Exception as raised:  # what the check reports: most often a lack of memory
        error = raised.with_traceback(None)
    for p in trainer.model.parameters():
        p.grad = None
    return LongestBatch(
        rows=len(rows),
        tokens=max(len(row["input_ids"]) for row in rows),
        peak=torch.cuda.max_memory_allocated(),
        total=torch.cuda.get_device_properties(trainer.args.device).total_memory,
        error=error,
    )


def longest_rows(trainer: Trainer, count: int) -> list[dict[str, Any]]:
    """The `count` longest rows of the training data, as the data collator takes them."""
    column = trainer.train_dataset.with_format("arrow")["input_ids"]
    lengths = np.concatenate([np.diff(chunk.offsets.to_numpy()) for chunk in column[:].chunks])
    longest = np.argsort(-lengths, kind="stable")[:count].tolist()
    return [trainer.train_dataset[index] for index in longest]


def run_rows(trainer: Trainer, rows: list[dict[str, Any]]) -> None:
    """A forward and a backward pass on rows, in the mode that training has."""
    differentiate(trainer, trainer.data_collator(rows))
