"""What a recipe leaves open, settled for this device, model and data, each with its reason.

What is written stays. Nothing that is chosen changes what a step computes by more than rounding: the rows of an update,
their weights in its loss and its settings are those of the recipe.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, TypeVar

import numpy as np

from ftrun.checks.stages import AtData, Choice
from ftrun.runner.arguments import choose_bf16
from ftrun.runner.batch import count_processes
from ftrun.runner.tuning.batches import SORTED, divide, read_lengths
from ftrun.runner.tuning.memory import choose_memory
from ftrun.runner.tuning.rules import (
    ACCUMULATION,
    ATTENTION,
    BATCH,
    CHECKPOINTING,
    TF32,
    is_open,
    may_divide,
    may_sort,
)
from ftrun.schemas.resolve import resolve
from ftrun.schemas.sections import BaseRecipe

RecipeT = TypeVar("RecipeT", bound=BaseRecipe)

WORTH = 0.03
"""The least share of an epoch's places that sorting has to save."""


def tune(at: AtData, recorded: Iterable[Mapping[str, Any]] | None = None) -> AtData:
    """The stage with every open setting chosen. Where a run is repeated or resumed, `recorded` has its choices."""
    plain = replace(at, recipe=resolve(at.file.recipe), choices=())
    choices = tuple(
        choose(plain) if recorded is None else _repeat(plain, (Choice(**one) for one in recorded))
    )
    return replace(plain, recipe=apply(plain.recipe, choices), choices=choices)


def apply(recipe: RecipeT, choices: Iterable[Choice]) -> RecipeT:
    """The recipe with what was chosen."""
    for one in choices:
        section, _, name = one.key.partition(".")
        if section == "training":
            recipe = recipe.model_copy(update={"training": {**recipe.training, name: one.value}})
        elif section == "model":
            recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={name: one.value})})
    return recipe


def choose(at: AtData) -> Iterator[Choice]:
    """The settings that the recipe leaves open and that another value serves better here."""
    on_gpu = bool(at.machine.devices) and not at.recipe.training["use_cpu"]
    largest = None
    if on_gpu:
        arithmetic = tuple(_choose_arithmetic(at))
        yield from arithmetic
        at = replace(at, recipe=apply(at.recipe, arithmetic), choices=arithmetic)
        largest, checkpointing = choose_memory(at)
        yield from checkpointing
    elif is_open(at, CHECKPOINTING):
        yield Choice(CHECKPOINTING, False, "it saves memory that a CPU has, by computing activations twice")
    yield from _choose_batches(at, largest, on_gpu=on_gpu)


def _choose_arithmetic(at: AtData) -> Iterator[Choice]:
    """TF32 and flash attention: only where forward passes are in bfloat16 anyway, which is coarser."""
    if not choose_bf16(at):
        return
    if is_open(at, TF32):
        yield Choice(TF32, True, f"{at.machine.devices[0].name} has it, and bfloat16 is coarser")
    if at.recipe.model.attention == "auto" and find_spec("flash_attn") is not None:
        yield Choice(ATTENTION, "flash_attention_2", "flash-attn is installed")


def _choose_batches(at: AtData, largest: int | None, *, on_gpu: bool) -> Iterator[Choice]:
    """How the rows of an update are divided. `largest` is the micro-batch that memory allows."""
    training, sortable = at.recipe.training, may_sort(at)
    rows, accumulation = training["per_device_train_batch_size"], training["gradient_accumulation_steps"]
    if at.recipe.method == "ppo" or not (sortable or may_divide(at)):
        return
    division = divide(
        read_lengths(at.train_dataset) if sortable else np.ones(len(at.train_dataset), np.int64),
        (rows, accumulation, count_processes(at.recipe)),
        may_divide=may_divide(at),
        largest=largest,
        on_gpu=on_gpu,
    )
    if division.rows != rows:
        full = largest is not None and rows > largest
        why = "memory has no room for more" if full else "fewer rows are padded to the longest"
        yield Choice(BATCH, division.rows, why)
        yield Choice(
            ACCUMULATION, division.accumulation, f"an update has {rows} rows of each process, as written"
        )
    if sortable and division.places < (1 - WORTH) * division.drawn:
        saved = 1 - division.places / division.drawn
        yield Choice(SORTED, "sorted by length", f"less padding: {saved:.0%} fewer places to compute")


def _repeat(at: AtData, recorded: Iterable[Choice]) -> Iterator[Choice]:
    """The recorded choices that hold here: not for what is written, and not those of a GPU without one."""
    for one in recorded:
        of_device = one.key in (TF32, ATTENTION) and not at.machine.devices
        if not of_device and is_open(at, ACCUMULATION if one.key == BATCH else one.key):
            yield one
