"""Experiments with the model that trains: what must stay the same when it is asked in another way.

They are made inside the dry step, which puts back what they change, on the batch that it took and with the weights
that it left. All but the longest batch are forward passes without gradients, most of them on two rows: as much work as
at most one step. Learning a few short rows of it by heart, 25 steps of their own, is made from the start, with all
put back. None is made where the step itself failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ftrun.checks.experiments import Experiments, Learning, Step
from ftrun.checks.stages import AtModel
from ftrun.runner.excerpt import make_excerpt
from ftrun.runner.learning import learn_by_heart
from ftrun.runner.longest import try_longest
from ftrun.runner.round_trip import reload_model, reload_tokenizer
from ftrun.runner.trial import PREDICTS, SHORT, Batch, NotMade, Weights, count_items, need_labels, on_device
from ftrun.schemas.errors import first_line

if TYPE_CHECKING:
    import torch
    from transformers import Trainer

Result = TypeVar("Result")


def make_experiments(at: AtModel, step: Step) -> Experiments:
    """All experiments that this run allows."""
    skipped: dict[str, str] = {}

    def attempt(name: str, experiment: Callable[[], Result]) -> Result | None:
        return _attempt(name, experiment, skipped)

    batch = step.batch
    if step.failed is not None or batch is None:
        return Experiments(skipped=dict.fromkeys(_NAMES, f"the {step.failed} of the dry step failed"))
    for p in at.trainer.model.parameters():
        p.grad = None  # gradients are not needed any more, and may be a quarter of the memory
    longest = attempt("longest", lambda: try_longest(at))
    with _evaluating(at.trainer):
        updated = attempt("updated", lambda: _update(at, batch, step.loss))
        few = _select_two(batch) if at.recipe.method in PREDICTS else batch
        repeated = attempt("repeated", lambda: _repeat(at, few))
        divided = attempt("divided", lambda: _divide(at, few, repeated))
        accumulated = attempt("accumulated", lambda: _accumulate(at, few, repeated))
        packed = attempt("packed", lambda: _pack(at))
        # Last, since it moves weights.
        reloaded = attempt("reloaded", lambda: reload_model(at))
    tokenizer = attempt("tokenizer", lambda: tuple(reload_tokenizer(at)))
    return Experiments(
        updated, repeated, divided, accumulated, packed, reloaded, tokenizer, longest, skipped=skipped
    )


_NAMES = ("updated", "repeated", "divided", "accumulated", "packed", "reloaded", "tokenizer", "longest")


def learn_first_batch(at: AtModel, step: Step, weights: Weights, skipped: dict[str, str]) -> Learning | None:
    """The experiment that begins where the run does, with the trained weights as they are; why it could not be
    made goes into `skipped`."""
    batch = step.batch
    assert batch is not None, "a step that did not fail has a batch"
    few = make_excerpt(at.recipe.method, batch)
    return _attempt("learnt", lambda: learn_by_heart(at, few, weights), skipped)


def _attempt(name: str, experiment: Callable[[], Result], skipped: dict[str, str]) -> Result | None:
    try:
        return experiment()
    except NotMade as why:
        skipped[name] = str(why)
    except Exception as error:  # a boundary: what fails here must not keep a run from starting
        skipped[name] = f"the experiment fails with {first_line(error)}"
    return None


def _update(at: AtModel, batch: Batch, before: float | None) -> tuple[float, float]:
    need_labels(at)
    assert before is not None, "a step that did not fail has a loss"
    return before, _loss(at.trainer, batch, count_items(at.trainer, batch))


def _repeat(at: AtModel, batch: Batch) -> tuple[float, float]:
    need_labels(at)
    items = count_items(at.trainer, batch)
    return _loss(at.trainer, batch, items), _loss(at.trainer, batch, items)


def _divide(at: AtModel, batch: Batch, known: tuple[float, float] | None) -> tuple[float, float]:
    """The loss of the batch; and of its halves, each padded no further than it needs, by their tokens."""
    trainer = at.trainer
    whole = _need_loss(at, known)
    if "attention_mask" not in batch or "position_ids" in batch:
        raise NotMade("the batch is one row of documents without padding")
    rows = len(batch["input_ids"])
    if rows < 2:
        raise NotMade("the batch is one row")
    # The shorter rows and the longer ones, so that padding differs most.
    order = batch["attention_mask"].sum(1).argsort()
    parts = [_select(batch, order[: rows // 2]), _select(batch, order[rows // 2 :])]
    counts = [_count_labels(trainer, part) for part in parts]
    if not all(counts):
        raise NotMade("a half of the batch trains no token")
    losses = [
        _loss(trainer, part, _as_items(trainer, part, count))
        for part, count in zip(parts, counts, strict=True)
    ]
    weighed = sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)
    return whole, weighed


def _accumulate(at: AtModel, batch: Batch, known: tuple[float, float] | None) -> tuple[float, float]:
    """What the batch gives to a step whose other batches have its tokens `gradient_accumulation_steps` times."""
    trainer = at.trainer
    alone = _need_loss(at, known)
    steps = trainer.args.gradient_accumulation_steps
    if steps < 2:
        raise NotMade("gradients are not accumulated")
    count = _count_labels(trainer, batch)
    if not count:
        raise NotMade("the batch trains no token")
    total = count * (steps + 1)
    given = _loss(trainer, batch, _as_items(trainer, batch, total))
    if not _is_scaled(trainer, batch):
        given /= steps  # as `Trainer.training_step` does
    return given, alone * count / total


def _pack(at: AtModel) -> float:
    need_labels(at)
    import torch

    trainer = at.trainer
    if not at.recipe.training["packing"]:
        raise NotMade("rows are not packed")
    if at.recipe.training["packing_strategy"] == "wrapped":
        raise NotMade("wrapped packing keeps no boundaries of documents")
    long = np.flatnonzero(at.train.lengths >= 2)
    if len(long) < 2:
        raise NotMade("there are no two rows to pack")
    first, second = (at.train[int(i)].ids[:SHORT].tolist() for i in (long[0], long[-1]))
    other = [*first[1:], first[0]] if len(set(first)) > 1 else [second[0]] * len(first)
    if other == first:
        raise NotMade("the first document has one kind of token")
    logits = []
    for begin in (first, other):
        lengths = [len(begin), len(second)]
        row = {"input_ids": [*begin, *second], "labels": [*begin, *second], "seq_lengths": lengths}
        logits.append(_logits(trainer, trainer.data_collator([row]))[0, len(begin) : sum(lengths)])
    return float((logits[0] - logits[1]).abs().max().to(torch.float64))


@contextmanager
def _evaluating(trainer: Trainer) -> Iterator[None]:
    import torch

    trainer.model.eval()
    with torch.no_grad():
        yield


def _need_loss(at: AtModel, known: tuple[float, float] | None) -> float:
    """The loss of the batch, where it is a sum over tokens."""
    need_labels(at)
    if getattr(at.trainer, "aux_loss_enabled", False):
        raise NotMade("a mixture of experts adds a loss of the whole batch")
    if known is None:
        raise NotMade("the batch has no loss in evaluation")
    return known[0]


def _loss(trainer: Trainer, batch: Batch, items: Any) -> float:
    with trainer.accelerator.autocast():
        value: torch.Tensor = trainer.compute_loss(
            trainer.model, on_device(trainer, batch), num_items_in_batch=items
        )
    return float(value)


def _logits(trainer: Trainer, batch: Batch) -> torch.Tensor:
    inputs = {key: value for key, value in on_device(trainer, batch).items() if key != "labels"}
    with trainer.accelerator.autocast():
        logits: torch.Tensor = trainer.model(**inputs, use_cache=False).logits
    return logits.float()


def _select_two(batch: Batch) -> Batch:
    """The shortest and the longest row of a padded batch; another batch as it is."""
    if "attention_mask" not in batch or "position_ids" in batch or len(batch["input_ids"]) <= 2:
        return batch
    return _select(batch, batch["attention_mask"].sum(1).argsort()[[0, -1]])


def _select(batch: Batch, rows: torch.Tensor) -> dict[str, Any]:
    """These rows of a padded batch, without the columns that are padding in all of them."""
    last = int(batch["attention_mask"][rows].sum(1).max())
    return {
        key: value[rows][:, :last] if value.dim() > 1 else value[rows]
        for key, value in batch.items()
        if hasattr(value, "dim")
    }


def _count_labels(trainer: Trainer, batch: Batch) -> int:
    """Trained tokens as the trainer counts them: of a model whose loss it does not know to shift (GPT-2 is one), the
    first token of a row is one of them, by which its losses are that much too small."""
    counts_first = count_items(trainer, batch) is not None and not getattr(
        trainer, "_loss_shifts_labels", True
    )
    labels = batch["labels"] if counts_first else batch["labels"][:, 1:]
    return int((labels != -100).sum())


def _as_items(trainer: Trainer, batch: Batch, count: int) -> Any:
    """`count` in the form in which the trainer counts; None where it does not count."""
    counted = count_items(trainer, batch)
    if counted is None:
        return None
    import torch

    return torch.full_like(torch.as_tensor(counted), count)


def _is_scaled(trainer: Trainer, batch: Batch) -> bool:
    """Whether the loss is divided by the tokens of all accumulated batches, by `Trainer.training_step`."""
    told = getattr(trainer, "loss_is_scaled_for_ga", None)
    if told is not None:
        return bool(told)
    counts = trainer.model_accepts_loss_kwargs and count_items(trainer, batch) is not None
    return bool(counts or trainer.compute_loss_func is not None)
