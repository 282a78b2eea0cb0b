"""Experiments with the model that trains: what must stay the same when it is asked in another way.

They are made inside the dry step, which puts back what they change, on the batch that it took and with the weights
that it left. All but the longest batch are forward passes without gradients on a few rows: as much work as at most
one and a half steps. None is made where the step itself failed.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ftrun.checks.stages import AtModel, Experiments, LongestBatch, Step
from ftrun.schemas.errors import first_line

if TYPE_CHECKING:
    import torch
    from transformers import Trainer

Batch = Mapping[str, Any]
Result = TypeVar("Result")

SHORT = 64
"""Tokens of a row that are looked at where logits are compared: with 150,000 words 38 MB."""

FEW = 4
"""Rows of the first batch that are asked again."""

SAVED = 256 * 2**20
"""Bytes of weights up to which saving and loading is tried: about a second."""

MOVED = 0.05
"""Standard deviation of what is added to trained weights before saving: an adapter begins without any effect, and
one that is lost would not be missed."""

PREDICTS = ("sft",)
"""Methods whose batches are rows with labels."""

SAVES = ("sft", "dpo")
"""Methods that save a causal language model, or an adapter for one."""


class NotMade(Exception):
    """Raised by an experiment that cannot be made here; its text says why."""


def make_experiments(at: AtModel, step: Step) -> Experiments:
    """All experiments that this run allows."""
    skipped: dict[str, str] = {}

    def attempt(name: str, experiment: Callable[[], Result]) -> Result | None:
        try:
            return experiment()
        except NotMade as why:
            skipped[name] = str(why)
        except Exception as error:  # a boundary: what fails here must not keep a run from starting
            skipped[name] = f"the experiment fails with {first_line(error)}"
        return None

    batch = step.batch
    if step.failed is not None or batch is None:
        return Experiments(skipped=dict.fromkeys(_NAMES, f"the {step.failed} of the dry step failed"))
    for p in at.trainer.model.parameters():
        p.grad = None  # gradients are not needed any more, and may be a quarter of the memory
    longest = attempt("longest", lambda: try_longest(at))
    with _evaluating(at.trainer):
        few = _select_first(batch) if at.recipe.method in PREDICTS else batch
        repeated = attempt("repeated", lambda: _repeat(at, few))
        divided = attempt("divided", lambda: _divide(at, few, repeated))
        accumulated = attempt("accumulated", lambda: _accumulate(at, few, repeated))
        packed = attempt("packed", lambda: _pack(at))
        # Last, since it moves weights.
        reloaded = attempt("reloaded", lambda: _reload(at))
    return Experiments(repeated, divided, accumulated, packed, reloaded, longest, skipped)


_NAMES = ("repeated", "divided", "accumulated", "packed", "reloaded", "longest")


def _repeat(at: AtModel, batch: Batch) -> tuple[float, float]:
    _need_labels(at)
    items = _count_items(at.trainer, batch)
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
    _need_labels(at)
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


def _reload(at: AtModel) -> tuple[float, float]:
    """The model saved as training saves it, loaded as anyone loads it, and both asked the same."""
    import torch

    trainer, model = at.trainer, at.trainer.model
    if at.recipe.method not in SAVES:
        raise NotMade(f"not for method {at.recipe.method}")
    if at.recipe.model.quantization is not None:
        raise NotMade("a quantised base would be quantised anew")
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        raise NotMade("the weights are divided among processes")
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    if size > SAVED:
        raise NotMade(
            f"the model has {size / 1e9:.2g} GB of weights; saving and loading is tried up to {SAVED / 1e9:.2g} GB"
        )
    ids = torch.tensor(at.train[0].ids[:SHORT].tolist(), device=model.device)[None]
    before = _ask(trainer, model, ids)
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        if p.requires_grad and p.is_floating_point():
            p.data.add_(torch.randn(p.shape, generator=generator).to(p.device, p.dtype) * MOVED)
    moved = _ask(trainer, model, ids)
    with tempfile.TemporaryDirectory(prefix="ftrun-") as folder:
        trainer.save_model(folder)
        again = _ask(trainer, _load(at, folder), ids)
    return float((again - moved).abs().max()), float((moved - before).abs().max())


def _load(at: AtModel, folder: str) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    kwargs = {
        "dtype": next(iter(at.model.parameters())).dtype,
        "attn_implementation": at.model.config._attn_implementation,
        "trust_remote_code": at.recipe.model.trust_remote_code,
    }
    if at.recipe.model.lora is None:
        model = AutoModelForCausalLM.from_pretrained(folder, **kwargs)
    else:
        from peft import PeftModel

        base = at.model.get_base_model().name_or_path
        kwargs |= {
            "revision": at.recipe.model.revision,
            **(at.recipe.training.get("model_init_kwargs") or {}),
        }
        plain = AutoModelForCausalLM.from_pretrained(base, **kwargs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT warns of keys that it misses; the logits tell
            model = PeftModel.from_pretrained(plain, folder)
    loaded: torch.nn.Module = model.to(at.model.device).eval()
    return loaded


def _ask(trainer: Trainer, model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    # A context of its own: autocast keeps its copies of the weights until it ends, and these are changed between.
    with trainer.accelerator.autocast():
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return logits.float()


def try_longest(at: AtModel) -> LongestBatch:
    """A forward and backward pass on as many of the longest rows as a batch holds, with all else in memory.

    Raises NotMade where there is no CUDA device, whose memory would be measured.
    """
    import torch

    _need_labels(at)
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
    from contextlib import nullcontext

    trainer.model.train()
    batch = trainer.data_collator(rows)
    offloading = getattr(trainer, "maybe_activation_offload_context", None) or nullcontext()
    with offloading, trainer.accelerator.autocast():
        loss = trainer.compute_loss(
            trainer.model, _on_device(trainer, batch), num_items_in_batch=_count_items(trainer, batch)
        )
    trainer.accelerator.backward(loss)


@contextmanager
def _evaluating(trainer: Trainer) -> Iterator[None]:
    import torch

    trainer.model.eval()
    with torch.no_grad():
        yield


def _need_labels(at: AtModel) -> None:
    if at.recipe.method not in PREDICTS:
        raise NotMade(f"not for method {at.recipe.method}")


def _need_loss(at: AtModel, known: tuple[float, float] | None) -> float:
    """The loss of the batch, where it is a sum over tokens."""
    _need_labels(at)
    if getattr(at.trainer, "aux_loss_enabled", False):
        raise NotMade("a mixture of experts adds a loss of the whole batch")
    if known is None:
        raise NotMade("the batch has no loss in evaluation")
    return known[0]


def _loss(trainer: Trainer, batch: Batch, items: Any) -> float:
    with trainer.accelerator.autocast():
        value: torch.Tensor = trainer.compute_loss(
            trainer.model, _on_device(trainer, batch), num_items_in_batch=items
        )
    return float(value)


def _logits(trainer: Trainer, batch: Batch) -> torch.Tensor:
    inputs = {key: value for key, value in _on_device(trainer, batch).items() if key != "labels"}
    with trainer.accelerator.autocast():
        logits: torch.Tensor = trainer.model(**inputs, use_cache=False).logits
    return logits.float()


def _on_device(trainer: Trainer, batch: Batch) -> dict[str, Any]:
    device = trainer.args.device
    return {key: value.to(device) if hasattr(value, "to") else value for key, value in batch.items()}


def _select_first(batch: Batch) -> Batch:
    """The first rows of a padded batch; another batch as it is."""
    import torch

    if "attention_mask" not in batch or "position_ids" in batch or len(batch["input_ids"]) <= FEW:
        return batch
    return _select(batch, torch.arange(FEW))


def _select(batch: Batch, rows: torch.Tensor) -> dict[str, Any]:
    """These rows of a padded batch, without the columns that are padding in all of them."""
    last = int(batch["attention_mask"][rows].sum(1).max())
    return {key: value[rows][:, :last] for key, value in batch.items()}


def _count_items(trainer: Trainer, batch: Batch) -> Any:
    return trainer._get_num_items_in_batch([batch], trainer.args.device)


def _count_labels(trainer: Trainer, batch: Batch) -> int:
    return int((batch["labels"][:, 1:] != -100).sum())


def _as_items(trainer: Trainer, batch: Batch, count: int) -> Any:
    """`count` in the form in which the trainer counts; None where it does not count."""
    counted = _count_items(trainer, batch)
    if counted is None:
        return None
    import torch

    return torch.full_like(torch.as_tensor(counted), count)


def _is_scaled(trainer: Trainer, batch: Batch) -> bool:
    """Whether the loss is divided by the tokens of all accumulated batches, by `Trainer.training_step`."""
    told = getattr(trainer, "loss_is_scaled_for_ga", None)
    if told is not None:
        return bool(told)
    counts = trainer.model_accepts_loss_kwargs and _count_items(trainer, batch) is not None
    return bool(counts or trainer.compute_loss_func is not None)
