"""Runs that are killed at random and resumed: does each end as the one that was left alone?

    python benchmarks/kills.py [--kills 100] [--minutes 60] [--seed 0]

For each method, full and LoRA, a small run with a checkpoint every second step is trained once to its end. Then it is
trained again and again, killed with SIGKILL at a moment drawn at random between its first step and its last (a third of
the time within a save), and resumed until it ends. Each must end with the model folder of the first, byte for byte. A
run that is begun is brought to its end, so a few more kills may come of it than asked for. Prints a line for each run,
and the sums.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ftrun.checks.testing import (
    World,
    dpo_full,
    dpo_lora,
    ppo_full,
    ppo_lora,
    reward_full,
    sft_full,
    sft_lora,
)
from ftrun.runner.checkpoints import MANIFEST_FILE
from ftrun.runner.weights import digest_model

WORLDS = (sft_full, sft_lora, reward_full, dpo_full, dpo_lora, ppo_full, ppo_lora)
STEPS, EVERY = 24, 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no other run after so many")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    killed = same = runs = 0
    wanted: dict[Callable[[Path], World], str] = {}
    end = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for make in itertools.cycle(WORLDS):
            if killed >= options.kills or time.monotonic() >= end:
                break
            if make not in wanted:
                wanted[make] = train_whole(make, folder / make.__name__ / "whole")
            home = folder / make.__name__ / "killed"
            kills, digest = train_killed(make, home, chance)
            shutil.rmtree(home)
            runs, killed, same = runs + 1, killed + kills, same + (digest == wanted[make])
            verdict = "same" if digest == wanted[make] else "OTHER WEIGHTS"
            print(f"{make.__name__}: {kills} kills, {verdict}", flush=True)
    print(f"{killed} kills in {runs} runs; {same} of {runs} end with the same weights")


def write(make: Callable[[Path], World], folder: Path) -> Path:
    world = make(folder)
    world.recipe["training"] |= {
        "max_steps": STEPS,
        "save_strategy": "steps",
        "save_steps": EVERY,
        "logging_steps": 1,
    }
    return world.write()


def train_whole(make: Callable[[Path], World], folder: Path) -> str:
    recipe = write(make, folder)
    subprocess.run([sys.executable, "-m", "ftrun", str(recipe)], check=True, capture_output=True, cwd=folder)
    return digest_model(folder / "runs" / "healthy-1" / "model")


def train_killed(make: Callable[[Path], World], folder: Path, chance: random.Random) -> tuple[int, str]:
    """Kills, and the digest of the model in the end."""
    recipe, home, kills = write(make, folder), folder / "runs" / "healthy-1", 0
    while True:
        # Without a checkpoint there is nothing to resume: it is a new run then.
        resume = ["--resume"] if list(home.glob(f"checkpoints/*/{MANIFEST_FILE}")) else []
        if not resume and home.exists():
            shutil.rmtree(folder / "runs")
        journal = home / "metrics.jsonl"
        begun = journal.stat().st_size if journal.exists() else 0
        command = [sys.executable, "-m", "ftrun", str(recipe), *resume]
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=folder
        ) as process:
            while process.poll() is None and not (journal.exists() and journal.stat().st_size > begun):
                time.sleep(0.005)
            if chance.random() < 1 / 3:
                known = set(home.glob("checkpoints/*"))
                while process.poll() is None and not _is_saving(home, known):
                    pass
            else:
                time.sleep(chance.uniform(0.0, 1.5))
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
            _, said = process.communicate()
        if process.returncode == 0:
            return kills, digest_model(home / "model")
        if process.returncode != -signal.SIGKILL:
            raise SystemExit(f"{make.__name__} ended with {process.returncode}:\n{said.decode()}")


def _is_saving(home: Path, known: set[Path]) -> bool:
    return any(not (one / MANIFEST_FILE).exists() for one in home.glob("checkpoints/*") if one not in known)


if __name__ == "__main__":
    main()
