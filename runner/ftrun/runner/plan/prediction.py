"""What a step will need, from steps without values: the memory of a model of any depth and of any micro-batch.

Memory in each part of a step grows by the same with every layer that is like the others, so that of a deep model is
extrapolated from two shallow ones, part by part; the peak is that of the part that is highest at the full depth.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import torch

from ftrun.checks.rows import IGNORED
from ftrun.checks.stages import AtData
from ftrun.runner.plan.footprint import Footprint, count_step
from ftrun.runner.plan.live_bytes import Part
from ftrun.runner.plan.rows import longest_rows
from ftrun.runner.plan.weightless import (
    FLASH,
    Weightless,
    build_weightless,
    is_eight_bit,
    is_uniform,
    replaced,
)
from ftrun.runner.trial import Batch, count_items

if TYPE_CHECKING:
    from transformers import Trainer

SHALLOW = (3, 4)
"""Layers of the models that deeper ones are extrapolated from: from three on, the last layer and the first two are
parts of their own. What is alive between them grows or falls evenly, so that no peak is there."""

BITS = {"4bit": 0.5 + 1 / 64 + 4 / (64 * 256), "8bit": 1.0}
"""Bytes of a quantised weight: NF4 with a byte for 64 weights and a float for 256 of those (QLoRA, arXiv
2305.14314); LLM.int8 (arXiv 2208.07339), without its float for each row."""


@dataclass(frozen=True)
class Prediction:
    """Predicts the memory of a run's steps."""

    at: AtData
    rigs: tuple[Weightless, ...]
    cuda: bool
    """Whether the run is planned for a CUDA device."""

    @property
    def trainer(self) -> Trainer:
        """A trainer of the run, without weights and perhaps with fewer layers."""
        return self.rigs[0].at.trainer

    @property
    def left_out(self) -> tuple[str, ...]:
        """What is otherwise in the run."""
        return self.rigs[0].left_out

    def predict(self, rows: int, *, accumulate: bool) -> Footprint:
        """The footprint of a step on a micro-batch of the longest rows."""
        found = [_count(rig, self.at, rows, keep=accumulate, cuda=self.cuda) for rig in self.rigs]
        return found[0] if len(found) == 1 else extrapolate(found[0], found[1], self.rigs[0].depths[0])


def prepare_prediction(at: AtData, folder: Path, *, cuda: bool, exact: bool = False) -> Prediction:
    """Build what predicts: the trainer without weights, whole where it is shallow or uneven, or with `exact`,
    else twice with few layers."""
    if (
        not exact
        and is_uniform(at.model_config)
        and not (at.recipe.model.lora or {}).get("layers_to_transform")
    ):
        first = build_weightless(at, folder, layers=SHALLOW[0])
        if len(set(first.depths)) == 1 and first.depths[0] > sum(SHALLOW):
            return Prediction(at, (first, build_weightless(at, folder, layers=SHALLOW[1])), cuda)
    return Prediction(at, (build_weightless(at, folder),), cuda)


def extrapolate(one: Footprint, two: Footprint, depth: int) -> Footprint:
    """The footprint of a model of `depth` layers from those of two with SHALLOW layers."""

    def line(a: int, b: int) -> int:
        return a + (depth - SHALLOW[0]) * (b - a)

    def part(a: Part, b: Part) -> Part:
        return Part(line(a.bytes, b.bytes), line(a.gradients, b.gradients))

    numbers = {
        field.name: line(getattr(one, field.name), getattr(two, field.name))
        for field in fields(Footprint)
        if field.name not in ("models", "parts")
    }
    models = {name: line(size, two.models[name]) for name, size in one.models.items()}
    parts = {name: part(size, two.parts[name]) for name, size in one.parts.items()}
    return Footprint(**numbers, models=models, parts=parts)


def _count(rig: Weightless, at: AtData, rows: int, *, keep: bool, cuda: bool) -> Footprint:
    trainer, mode = rig.at.trainer, rig.mode
    batch, items = ({}, None) if at.recipe.method == "ppo" else _collate(trainer, rows)
    for p in trainer.model.parameters():
        p.grad = None
    trainer.optimizer.state.clear()
    for group in trainer.optimizer.param_groups:
        if cuda and group.get("foreach") is None and "foreach" in group and not group.get("fused"):
            group["foreach"] = True  # torch's choice on a GPU
    whole = at.recipe.model.attention in FLASH or (bool(batch) and _is_whole(batch))
    packed = "position_ids" in batch and at.recipe.model.attention not in FLASH
    scored = _count_scored(batch) if cuda else None
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(_masks_known(whole=whole, packed=packed))
        if cuda:
            stack.enter_context(_as_on_cuda())
        stack.enter_context(mode)
        fake = {key: mode.from_tensor(v) if isinstance(v, torch.Tensor) else v for key, v in batch.items()}
        before: Callable[[Callable[[str], None]], None] = _begin_at_once
        if at.recipe.method == "ppo":
            from ftrun.runner.plan.rollout import answered, roll_out

            stack.enter_context(answered(trainer, rows))
            before = partial(roll_out, trainer)
        elif getattr(trainer, "precompute_ref_logps", False):
            fake |= {name: torch.empty(rows) for name in ("ref_chosen_logps", "ref_rejected_logps")}
        found = count_step(trainer, fake, items=items, keep=keep, fake=True, scored=scored, before=before)
    return _with_bits(found, trainer, at)


def _begin_at_once(enter: Callable[[str], None]) -> None:
    """What methods other than PPO do before a step: nothing."""


def _collate(trainer: Trainer, rows: int) -> tuple[dict[str, Any], Any]:
    batch = trainer.data_collator(longest_rows(trainer.train_dataset, rows))
    return batch, count_items(trainer, batch)


def _is_whole(batch: Batch) -> bool:
    """Whether no row of a batch is padded, so that attention needs no mask."""
    mask = batch.get("attention_mask")
    return mask is None or bool(mask.all())


def _count_scored(batch: Batch) -> tuple[tuple[int, ...], int] | None:
    """The shape of the mask of scored positions, and how many there are: on a GPU, TRL's language head computes
    those alone."""
    if "completion_mask" in batch:
        wanted = batch["completion_mask"][:, 1:] != 0
    elif "labels" in batch:
        wanted = batch["labels"][:, 1:] != IGNORED
    else:
        return None
    return tuple(wanted.shape), int(wanted.sum())


@contextmanager
def _masks_known(*, whole: bool, packed: bool) -> Iterator[None]:
    """Inside, transformers makes the attention masks that it makes of values.

    Of fake tensors it makes them always, as while tracing, and repeats keys and values for them.
    """
    from transformers import masking_utils

    find = masking_utils.find_packed_sequence_indices

    def find_indices(position_ids: torch.Tensor) -> torch.Tensor | None:
        if not packed:
            return None
        with replaced(masking_utils, "is_tracing", lambda *_: True):
            return cast(torch.Tensor, find(position_ids))

    with (
        replaced(masking_utils, "is_tracing", lambda *_: False),
        replaced(masking_utils, "fast_all", lambda _: whole),
        replaced(masking_utils, "find_packed_sequence_indices", find_indices),
    ):
        yield


class _Kernel:
    """In the place of a Triton kernel, which works in the memory that it is given."""

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return lambda *args, **kwargs: None


@contextmanager
def _as_on_cuda() -> Iterator[None]:
    """Inside, TRL's language head takes the way that it takes on a GPU: scored positions alone, in place; and
    attention with dropout keeps no more than without, as the kernels of a GPU do."""
    attend = torch.nn.functional.scaled_dot_product_attention

    def attend_whole(*args: Any, dropout_p: float = 0.0, **kwargs: Any) -> torch.Tensor:
        return attend(*args, **kwargs)

    utils = importlib.import_module("trl.trainer.utils")
    head = importlib.import_module("trl.kernels.chunked_logprob")
    with (
        replaced(utils, "_use_triton", lambda _: True),
        replaced(head, "_use_triton", lambda _: True),
        replaced(head, "_forward_kernel", _Kernel()),
        replaced(head, "_backward_kernel", _Kernel()),
        replaced(head, "_addmm_fp32", lambda acc, a, b: None),
        replaced(torch.nn.functional, "scaled_dot_product_attention", attend_whole),
        replaced(head, "triton", SimpleNamespace(cdiv=lambda a, b: -(-a // b))),
    ):
        yield


def _with_bits(found: Footprint, trainer: Trainer, at: AtData) -> Footprint:
    """The footprint with weights and optimizer state in the bits that the recipe asks for, which have no fakes."""
    kind, spared_weights, spared_state = at.recipe.model.quantization, 0.0, 0.0
    if kind is not None:
        for name, one in trainer.model.named_modules():
            if isinstance(one, torch.nn.Linear) and ".layers." in name and "lora_" not in name:
                spared_weights += one.weight.numel() * (one.weight.element_size() - BITS[kind])
    if is_eight_bit(at.recipe.training["optim"]):
        spared_state = found.optimizer - 2.0 * found.trained
    spared = int(spared_weights + spared_state)
    (first, size), *rest = found.models.items()
    return replace(
        found,
        models={first: size - int(spared_weights), **dict(rest)},
        optimizer=found.optimizer - int(spared_state),
        parts={name: part._replace(bytes=part.bytes - spared) for name, part in found.parts.items()},
    )
