"""Peak memory without torch: a sum over what is alive in each part of a step, with coefficients of bytes.

The coefficients are fitted by `benchmarks/memory.py --fit` to steps of fake tensors: for each kind of model, type of
weights and arithmetic, full or LoRA on every linear module, with activations checkpointed or not, one for each feature
in each part. Rows are taken to be of `max_length`, without padding, and every token to be scored.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ftrun.checks.stages import AtRecipe
from ftrun.runner.plan.memory import Fit, Memory, Room, find_largest, find_room
from ftrun.runner.plan.outline import Parameters
from ftrun.runner.plan.shape import Shape, read_config, read_shape

ADAMW = ("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_bnb_8bit", "adamw_8bit", "paged_adamw_8bit")
AGAIN = " again"
"""Ends the name of a part that has a second sum: the larger of the two counts."""

TILE = (4096, 32768)
"""Tokens and words of a tile of TRL's language head (`trl.kernels.chunked_logprob`, TRL 1.16)."""


@dataclass(frozen=True)
class Load:
    """What is trained, and how."""

    shape: Shape
    rows: int
    tokens: int
    """Of each row."""

    dtype: str
    """Of the weights: `float32` or `bfloat16`."""

    mixed: bool
    """Whether forward passes run in bfloat16."""

    cuda: bool
    checkpointed: bool
    lora: Mapping[str, Any] | None
    keep: bool = False
    """Whether gradients of earlier micro-batches are there."""

    @property
    def key(self) -> str:
        """Names the coefficients."""
        arithmetic = "mixed" if self.mixed else "plain"
        head = "cuda" if self.cuda else "cpu"
        how = "full" if self.lora is None else "lora"
        kept = "checkpointed" if self.checkpointed else "kept"
        return f"{self.shape.family} {self.dtype} {arithmetic} {head} {how} {kept}"


def measure_features(load: Load) -> dict[str, float]:
    """The numbers that coefficients are multiplied by; each is in elements."""
    shape, t = load.shape, load.rows * load.tokens
    tile = min(t, TILE[0]), min(shape.words, TILE[1])
    per_layer = {
        "hidden": t * shape.hidden,
        "queries": t * shape.queries,
        "keys": t * shape.keys,
        "inner": t * shape.inner,
        "heads": t * shape.heads,
        "weights": shape.per_layer,
    }
    if shape.family == "gpt2":  # with dropout in its attention, which a CPU computes score by score
        per_layer["scores"] = t * load.tokens * shape.heads
    once = {
        "tokens": t,
        "buffer": tile[0] * TILE[1],
        "tile": tile[0] * tile[1],
        "chunk": tile[1] * shape.hidden,
        "words": shape.words * shape.hidden,
    }
    if shape.is_tied:  # the gradients of embeddings and head are there apart, and then their sum
        once["tied words"] = shape.words * shape.hidden
    if load.lora is not None:
        rank = int(load.lora.get("r", 8))
        per_layer |= {"rank": t * rank, "adapters": shape.adapters(load.lora)}
    return {
        **{f"layers {name}": float(shape.layers * size) for name, size in per_layer.items()},
        **{f"layer {name}": float(size) for name, size in per_layer.items()},
        **{name: float(size) for name, size in once.items()},
    }


@dataclass(frozen=True)
class Resident:
    """What is there in every part of a step, in bytes, and the parameters."""

    weights: int
    optimizer: int
    gradients: int
    trained: int
    total: int


def count_resident(load: Load) -> Resident:
    """Weights, AdamW's two moments and gradients. Adapters are in float32, as PEFT has them."""
    size, shape = 4 if load.dtype == "float32" else 2, load.shape
    base = size * shape.parameters
    if load.lora is None:
        return Resident(base, 2 * base, base, shape.parameters, shape.parameters)
    count = shape.layers * shape.adapters(load.lora)
    return Resident(base + 4 * count, 8 * count, 4 * count, count, shape.parameters + count)


@functools.cache
def read_coefficients() -> Mapping[str, Mapping[str, Mapping[str, float]]]:
    """Bytes for each element, by the key of a load, the part of the step and the feature."""
    text = Path(__file__).with_name("coefficients.json").read_text(encoding="utf-8")
    content: Mapping[str, Mapping[str, Mapping[str, float]]] = json.loads(text)
    return content


def predict_parts(load: Load) -> dict[str, int]:
    """The most that is alive in each part of a step, in bytes. Raises ValueError for a load without
    coefficients."""
    known = read_coefficients().get(load.key)
    if known is None:
        raise ValueError(
            f"the closed form has no coefficients for {load.key}; with ftrun[train] memory is told"
        )
    features, resident = measure_features(load), count_resident(load)
    always = resident.weights + resident.optimizer
    parts = {"update": always + resident.gradients}
    for name, coefficients in known.items():
        size = sum(features.get(feature, 0.0) * value for feature, value in coefficients.items())
        # Where all gradients are there already, those that the sum has for this part are among them.
        more = resident.gradients - _count_gradients(load, name.removesuffix(AGAIN)) if load.keep else 0
        parts[name] = always + int(size) + more
    return parts


def _count_gradients(load: Load, part: str) -> int:
    """Bytes of the gradients that there are in a part of the backward pass of a first micro-batch, about."""
    shape, size = load.shape, 4 if load.dtype == "float32" or load.lora is not None else 2
    layer = shape.per_layer if load.lora is None else shape.adapters(load.lora)
    head = 0 if load.lora is not None or shape.is_tied else shape.words * shape.hidden
    layers = {"top": 0, "last": 0, "second": shape.layers - 1, "first": shape.layers}
    return size * (layers[part] * layer + head) if part in layers else 0


def estimate(at: AtRecipe, memory: int | None) -> tuple[Memory | None, Parameters]:
    """Peak memory and parameters of a recipe from its model's configuration alone. Raises ValueError where the
    configuration is not there, or is of a kind of model, method or optimizer that is not known here."""
    training, model, method = at.recipe.training, at.recipe.model, at.recipe.method
    if method != "sft":
        raise ValueError(
            f"the closed form is for method sft, and this is {method}; with ftrun[train] memory is told"
        )
    if training["optim"] not in ADAMW[:2] or model.quantization is not None:
        raise ValueError("the closed form knows AdamW and weights that are not quantised; ftrun[train] more")
    room = find_room(None, memory)
    if room is None or training["max_length"] is None:
        raise ValueError("memory needs --memory and training.max_length here")
    load = _load(at, read_shape(read_config(at)), room)
    if "gradient_checkpointing" not in at.file.recipe.training:
        kept = replace(load, checkpointed=False)
        fits = max(predict_parts(kept).values()) <= room.usable
        load = kept if fits or not room.cuda else load
    resident = count_resident(load)
    saved = resident.weights if load.lora is None else 4 * resident.trained
    parameters = Parameters(
        resident.trained,
        resident.total,
        "full" if load.lora is None else "LoRA",
        saved + (0 if training["save_only_model"] else resident.optimizer),
    )
    return _estimate_memory(load, training["gradient_accumulation_steps"], room), parameters


def _load(at: AtRecipe, shape: Shape, room: Room) -> Load:
    training, model = at.recipe.training, at.recipe.model
    mixed = training["bf16"] if training["bf16"] is not None else room.cuda
    dtype = model.dtype
    if dtype == "auto":
        dtype = "bfloat16" if model.lora is not None and room.cuda else "float32"
    return Load(
        shape=shape,
        rows=training["per_device_train_batch_size"],
        tokens=training["max_length"],
        dtype="bfloat16" if dtype == "float16" else dtype,
        mixed=bool(mixed or training["fp16"]),
        cuda=room.cuda,
        checkpointed=training["gradient_checkpointing"],
        lora=model.lora,
        keep=training["gradient_accumulation_steps"] > 1,
    )


def _estimate_memory(load: Load, accumulation: int, room: Room) -> Memory:
    def peak(rows: int, steps: int) -> int:
        return max(predict_parts(replace(load, rows=rows, keep=steps > 1)).values())

    parts, resident = predict_parts(load), count_resident(load)
    moment = max(parts, key=lambda name: parts[name])
    part = moment.removesuffix(AGAIN)
    gradients = _count_gradients(load, part)
    if load.keep or part == "update":
        gradients = resident.gradients
    is_whole = load.lora is None or load.lora.get("target_modules") == "all-linear"
    largest: Fit | None = find_largest(peak, load.rows, accumulation, room)
    return Memory(
        room=room,
        how="closed form"
        if is_whole
        else "closed form, as if every linear module were adapted: an upper bound",
        rows=load.rows,
        tokens=load.tokens,
        peak=parts[moment],
        moment=part,
        models={"model": resident.weights},
        optimizer=resident.optimizer,
        gradients=gradients,
        activations=0,
        other=parts[moment] - resident.weights - resident.optimizer - gradients,
        largest=largest,
    )
