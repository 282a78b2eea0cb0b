"""What preflight costs: the dry step and its experiments in steps of training, and the checks of the data stage.

    python benchmarks/preflight.py [--pairs 3]

A step of training is a forward and backward pass on the first batch and an optimizer step, the median of 20. The
dry step is `take_step`: the step, experiments on it, saving the weights and putting them back. The goal is 3 steps
at most. Saving and loading the model again and the digests of frozen weights go by its size and not by the batch, so
the model here has a batch of 16 rows of some 250 tokens. `by heart` is what `preflight.experiments: true` adds, which
`auto` allows where it is at most 2 % of a run. The last line is the share of the data stage that its checks take.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

os.environ.update({"HF_HUB_OFFLINE": "1", "FTRUN_PLUGINS": ""})

from ftrun.checks.catalogue import load_checks
from ftrun.checks.engine import run_checks
from ftrun.checks.stages import AtData, AtModel
from ftrun.checks.testing import World, sft_full, sft_lora
from ftrun.runner.libraries import settle_libraries, silence_bars
from ftrun.runner.preflight import ascend
from ftrun.runner.step import take_step
from ftrun.runner.trial import advance, count_items, forward

STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=3)
    pairs = parser.parse_args().pairs
    settle_libraries()
    silence_bars()
    for make in (sft_full, sft_lora):
        with tempfile.TemporaryDirectory() as folder:
            measure_step(make.__name__, make(Path(folder)), pairs)
    with tempfile.TemporaryDirectory() as folder:
        measure_data(sft_full(Path(folder)))


def measure_step(name: str, world: World, pairs: int) -> None:
    """Print the dry step in steps of training, without learning by heart and with it."""
    for row in world.rows:
        row["completion"] = " ".join([row["completion"]] * 16)
    world.recipe["training"]["per_device_train_batch_size"] = 16
    at = ascend(world.write(), checks=(), folder=lambda file: world.folder / "run", needed=AtModel).at
    assert isinstance(at, AtModel)
    preflight = at.recipe.preflight
    by_heart = replace(
        at,
        recipe=at.recipe.model_copy(update={"preflight": preflight.model_copy(update={"experiments": True})}),
    )
    figures = []
    for _ in range(pairs):
        dry = clock(lambda: take_step(at))
        whole = clock(lambda: take_step(by_heart))
        step = time_training(at)
        figures.append((step, dry / step, (whole - dry) / step))
    step, dry, heart = (statistics.median(column) for column in zip(*figures, strict=True))
    print(
        f"{name}: a step of training {step * 1000:.0f} ms; the dry step {dry:.2f} steps; by heart {heart:.1f} more "
        f"(medians of {pairs})"
    )


def time_training(at: AtModel) -> float:
    """Seconds of one step of training on the first batch."""
    rows = [at.trainer.train_dataset[index] for index in range(at.trainer.args.train_batch_size)]
    batch = at.trainer.data_collator(rows)

    def train() -> None:
        at.trainer.optimizer.zero_grad()
        loss = forward(at.trainer, batch, count_items(at.trainer, batch))
        at.trainer.accelerator.backward(loss)
        advance(at.trainer)

    return statistics.median(clock(train) for _ in range(STEPS))


def measure_data(world: World) -> None:
    """Print how much of the data stage its checks take, of 20,000 rows."""
    world.rows = [
        {**row, "prompt": f"{number} {row['prompt']}"} for number in range(625) for row in world.rows
    ]
    path = world.write()
    built: list[AtData] = []
    whole = clock(
        lambda: built.append(ascend(path, checks=(), upto=AtData, needed=AtData).at)  # type: ignore[arg-type]
    )
    checks = [one for one in load_checks("data") if one.stage is AtData]
    seconds = clock(lambda: run_checks(checks, built[0], method="sft", ignore={}))
    print(
        f"data stage of {len(world.rows):,} rows: {whole:.2f} s to read and tokenise, {seconds:.2f} s for its "
        f"{len(checks)} checks"
    )


def clock(work: Callable[[], object]) -> float:
    """Seconds of the wall."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
