"""Memory and CPU seconds of preflight and the first steps of SFT on many rows, without the token cache and from it.

    python benchmarks/data_scale.py [--rows 50000 200000 1000000] [--folder FOLDER] [--steps 3]

Rows and tokenizer are those of `data_stage.py`: a prompt and a completion of some 137 tokens together, made from a
seed. Every run is a process of its own on one thread: all checks of all stages, then the first steps of the run
itself. Memory is the most that the process ever had resident (`ru_maxrss`), libraries and the mapped pages of files
included. With `--folder`, rows that were made before are taken again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from data_stage import ONE_THREAD, write_model, write_rows


def main() -> None:
    """Make the rows, run each size cold and from the cache, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 200_000, 1_000_000])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = options.folder or Path(name)
        print(f"{'rows':>10} {'tokens from':>12} {'peak':>8} {'data stage':>11} {'whole':>8}")
        for rows in options.rows:
            compare(folder / str(rows), rows, options.steps)


def compare(folder: Path, rows: int, steps: int) -> None:
    """Run one size without a cache and from it, and print a line for each."""
    if not (folder / "model").exists():
        folder.mkdir(parents=True)
        write_rows(folder, rows)
        write_model(folder)
    recipe = json.loads((folder / "pairs.yaml").read_text(encoding="utf-8"))
    recipe["training"] |= {"max_steps": steps, "per_device_train_batch_size": 4}
    recipe["data"]["eval"] = {"fraction": 0.01}
    (folder / "scale.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        for told in ("text", "the cache"):
            found = run_child(folder / "scale.yaml", cache)
            seconds = f"{found['data']:>10.1f}s {found['whole']:>7.1f}s"
            print(f"{rows:>10,} {told:>12} {found['peak'] / 1e9:>5.2f} GB {seconds}", flush=True)


def run_child(recipe: Path, cache: str) -> dict[str, Any]:
    """One measurement in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--child", str(recipe)],
        env={**os.environ, **ONE_THREAD, "FTRUN_CACHE": cache, "HF_HOME": cache},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(recipe: Path) -> dict[str, float]:
    """Bytes at most, and CPU seconds from a warm start to the end of the data stage and of the first steps."""
    from ftrun.checks.catalogue import load_checks
    from ftrun.checks.stages import AtData, AtModel
    from ftrun.runner.libraries import settle_libraries, silence_bars
    from ftrun.runner.preflight import ascend

    settle_libraries()
    silence_bars()
    ascend(
        recipe.with_name("warm.yaml"),
        checks=load_checks("data"),
        upto=AtData,
        folder=lambda file: recipe.parent,
    )
    began = time.process_time()
    reached: dict[str, float] = {}

    def announce(stage: str) -> None:
        reached[stage] = time.process_time() - began
        print(f"{stage}: {_peak() / 1e9:.2f} GB, {reached[stage]:.1f} s", file=sys.stderr)

    with tempfile.TemporaryDirectory() as folder:
        ascent = ascend(
            recipe, checks=load_checks(), folder=lambda file: Path(folder), needed=AtModel, announce=announce
        )
        assert isinstance(ascent.at, AtModel), ascent.report
        announce("training")
        ascent.at.trainer.train()
    whole = time.process_time() - began
    print(f"the end: {_peak() / 1e9:.2f} GB, {whole:.1f} s", file=sys.stderr)
    return {"peak": _peak(), "data": reached["model"] - reached["data"], "whole": whole}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
