"""What a person wants to know of a run even when all is well, told under the headings of the checklist."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ftrun.checks.rows import SourceCount
from ftrun.checks.stages import AtData, AtEnvironment, AtModel, AtStep
from ftrun.runner.batch import count_processes, describe_batch


def describe(at: AtEnvironment) -> Iterator[tuple[str, str]]:
    """Lines, each with its heading, of all that has been built."""
    yield from _describe_machine(at)
    if isinstance(at, AtData):
        yield from _describe_data(at)
    if isinstance(at, AtModel):
        yield from _describe_model(at)
    if isinstance(at, AtStep) and at.step.loss is not None:
        yield "Training", f"loss at the start {at.step.loss:.3f}"


def _describe_machine(at: AtEnvironment) -> Iterator[tuple[str, str]]:
    machine = at.machine
    versions = [
        f"{name} {machine.packages[name]}"
        for name in ("torch", "transformers", "trl", "peft")
        if machine.packages.get(name)
    ]
    yield "Environment", ", ".join(versions)
    if machine.devices:
        for device in machine.devices:
            yield "Environment", f"{device.name}, {_size(device.free)} of {_size(device.memory)} free"
    else:
        yield "Environment", f"CPU, {machine.cpu_count} cores"


def _describe_data(at: AtData) -> Iterator[tuple[str, str]]:
    for count in at.counts:
        yield "Data", describe_count(count)
    for source in at.sources:
        yield (
            "Data",
            f"{source.label}: format {source.format}, loss on {source.loss_on} ({source.loss_reason})",
        )
    rows = len(at.train) // at.train.sides
    packed = f", packed into {len(at.train_dataset):,} sequences" if len(at.train_dataset) != rows else ""
    what = "pairs" if at.train.sides == 2 else "prompts" if at.recipe.method == "ppo" else "rows"
    processes = count_processes(at.recipe)
    shared = f" of {describe_batch(at.recipe.training, processes)}" if processes > 1 else ""
    yield "Data", f"{rows:,} training {what}{packed}, {at.steps:,} steps{shared}"


def describe_count(count: SourceCount) -> str:
    """What became of the rows of a source, as a sum that adds up."""
    parts = [f"{count.read:,} rows read"]
    lost = {
        "unreadable": count.unreadable,
        "held out": count.held_out,
        "left out by weight": count.unused,
        "without a trained token": count.fully_masked,
        "too long": count.too_long,
    }
    parts += [f"− {number:,} {name}" for name, number in lost.items() if number]
    if count.repeated:
        parts.append(f"+ {count.repeated:,} repeated by weight")
    parts.append(f"= {count.kept:,} kept")
    share = count.trained_tokens / count.tokens if count.tokens else 0.0
    return (
        f"{count.label} ({count.split}): {' '.join(parts)}; {count.truncated:,} cut, "
        f"{count.tokens:,} tokens, {share:.0%} of them trained"
    )


def _describe_model(at: AtModel) -> Iterator[tuple[str, str]]:
    total = sum(p.numel() for p in at.model.parameters())
    trained = [p for p in at.model.parameters() if p.requires_grad]
    count = sum(p.numel() for p in trained)
    types = ", ".join(sorted({_short(p.dtype) for p in trained}))
    how = "LoRA" if at.recipe.model.lora is not None else "full"
    yield (
        "Model",
        (
            f"{at.recipe.model.path}: {count:,} of {total:,} parameters train ({count / total:.2%}, {how}), "
            f"in {types} on {at.trainer.args.device}"
        ),
    )


def _short(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _size(bytes: int) -> str:
    return f"{bytes / 2**30:.1f} GiB"
