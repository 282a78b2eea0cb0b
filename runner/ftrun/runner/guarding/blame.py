"""Which rows a loss that is no number comes from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from statistics import median
from typing import TYPE_CHECKING

from ftrun.checks.batches import find_rows, rows_of
from ftrun.checks.stages import AtModel
from ftrun.runner.guarding.sharding import is_sharded
from ftrun.runner.ranks import alone, gather
from ftrun.runner.trial import Batch, count_items, differentiate, forward

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import Trainer


FAR = 30.0
"""How many times the median of all a gradient is that of an outlier."""


def name_culprits(at: AtModel, batches: Sequence[Batch], *, outliers: bool = False) -> tuple[str, ...]:
    """The rows to blame for an update that is no number, or for `outliers`, in whichever process: as `rows.jsonl row
    17`, ten of them at most; empty where there are none. All processes have to call, each with its own micro-batches.
    """
    culprits = find_culprits(at, batches, outliers=outliers)
    told = gather(name_rows(at, culprits) if culprits else (), "rows to blame")
    return tuple(dict.fromkeys(name for own in told for name in own))[:10]


def find_culprits(at: AtModel, batches: Sequence[Batch], *, outliers: bool = False) -> list[Batch]:
    """The parts of micro-batches for which the model, as it is, gives a loss or a gradient that is no number, and with
    `outliers` those whose gradient is FAR times that of the others: single rows, or whole micro-batches where rows do
    not stand alone (pairs, and rows without padding between them). Empty where a process has parts of the model, which
    it cannot ask on its own.

    Random states, gradients and what the trainer logs next are afterwards what they were.
    """
    import torch

    if at.recipe.method == "ppo" or is_sharded(at.trainer):
        return []  # PPO's batches are prompts, and its loss depends on a rollout that is gone
    trainer = at.trainer
    metrics = deepcopy(getattr(trainer, "_metrics", None))
    devices = [trainer.args.device] if trainer.args.device.type == "cuda" else []
    with torch.random.fork_rng(devices), alone():  # each process has rows of its own to try
        parts = [part for batch in batches for part in _split(at, batch)]
        norms = [_measure(trainer, part) for part in parts]
    trainer.model.zero_grad()
    if metrics is not None:
        at.trainer._metrics = metrics
    known = [norm for norm in norms if math.isfinite(norm)]
    most = FAR * median(known) if outliers and len(known) > 1 else math.inf
    return [part for part, norm in zip(parts, norms, strict=True) if not math.isfinite(norm) or norm > most]


def _measure(trainer: Trainer, part: Batch) -> float:
    """The norm of the gradient of a part; no number where the loss is none."""
    import torch

    trainer.model.zero_grad()
    if trainer.accelerator.scaler is None:
        loss = differentiate(trainer, part)
    else:  # the scale of float16 may overflow for any row
        loss = forward(trainer, part, count_items(trainer, part))
        loss.backward()  # type: ignore[no-untyped-call, unused-ignore]  # torch is untyped here
    gradients = [weight.grad for weight in trainer.model.parameters() if weight.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(gradients))
    return norm if math.isfinite(loss.item()) else math.nan


def _split(at: AtModel, batch: Batch) -> Iterator[Batch]:
    rows = len(batch["input_ids"])
    if at.train.sides == 2 or "position_ids" in batch or rows == 1:
        yield batch
        return
    for row in range(rows):
        yield {key: value[row : row + 1] for key, value in batch.items()}


def name_rows(at: AtModel, parts: Sequence[Batch]) -> tuple[str, ...]:
    """Where the rows in parts of micro-batches come from: `rows.jsonl row 17`."""
    keys = [ids.tobytes() for part in parts for ids, _ in rows_of(part, at.tokenizer.pad_token_id)]
    places = find_rows(at.train, keys)
    origins = (at.train[places[key][-1]].where for key in keys if key in places)
    names = dict.fromkeys(f"{where.file} row {where.row}" for where in origins)
    return tuple(list(names)[:10]) or ("rows that were packed",)
