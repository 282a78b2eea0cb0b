"""What the data loader will feed: the batches that the real sampler and collator make, and the longest of them."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ftrun.runner.plan.outline import Batches
from ftrun.runner.tuning.batches import read_lengths

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Trainer

MOST = 2000
"""Batches that are collated to measure padding: a few seconds of work, and a share known to within a percent."""


def measure_batches(trainer: Trainer, *, repeats: int = 1) -> Batches:
    """Collate the batches of the first epoch in the order of the real sampler; the first MOST where there are
    more. A rollout's batch comes `repeats` times, and counts once."""
    trainer.args.dataloader_pin_memory = False
    loader = trainer.get_train_dataloader()
    tokens = places = seen = 0
    for batch in islice(iter(loader), 0, MOST * repeats, repeats):
        ids = batch["input_ids"]
        mask = batch.get("attention_mask")
        tokens += ids.numel() if mask is None else int(mask.sum())
        places += ids.numel()
        seen += 1
    return Batches(
        number=len(loader) // repeats,
        seen=seen,
        tokens=tokens,
        padding=places - tokens,
        longest=longest_row(trainer.train_dataset),
    )


def longest_row(dataset: Dataset) -> int:
    """Tokens of the longest row."""
    return int(read_lengths(dataset).max(initial=0))


def longest_rows(dataset: Dataset, count: int) -> list[dict[str, Any]]:
    """The `count` longest rows of a data set, as the collator takes them; some of them twice where there are
    fewer."""
    order = np.argsort(-read_lengths(dataset), kind="stable")
    return [dataset[index] for index in np.resize(order, count).tolist()]
