"""What the guards cost, and whether they are silent where nothing is wrong.

    python benchmarks/guards.py [--pairs 5]

Trains `recipes/sft.yaml` (steps of about 100 ms) in turn with every guard on and with every guard off, in processes of
their own with one thread, and prints the ratio of CPU seconds from the first logged step to the last, pair by pair and
as median. Both end with the same losses, which is asserted. Then it trains the shipped recipes of every method to their
end and prints what the guards said, which should be nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from ftrun.checks.catalogue import load_guards

ROOT = Path(__file__).resolve().parents[1]
TIMED = """
import sys, time
from transformers import TrainerCallback
from ftrun.runner.run import run_recipe
from ftrun.runner.guarding.recovery import Recovery
from ftrun.runner.printing.text import make_console
from pathlib import Path
times = []
class Clock(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        times.append(time.process_time())
train = Recovery.train
def timed(self, checkpoint):
    self.at.trainer.add_callback(Clock())
    return train(self, checkpoint)
Recovery.train = timed
console = make_console()
run_recipe(Path(sys.argv[1]), sets=sys.argv[2:], ignore={}, out=console, err=console)
print("SECONDS", times[-1] - times[10])
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5)
    pairs = parser.parse_args().pairs
    switched_off = [f"guards.{guard.name}.action=off" for guard in load_guards()]
    ratios = []
    for number in range(pairs):
        (on, losses), (off, same) = train_sft([]), train_sft(switched_off)
        assert losses == same, "the two do not do the same training"
        ratios.append(on / off)
        print(f"pair {number + 1}: {on:.2f} CPU seconds with guards, {off:.2f} without: {on / off:.3f}")
    print(f"guards: {statistics.median(ratios):.3f} of the time without (median of {pairs} pairs)")
    for name in ("sft", "reward", "dpo", "ppo"):
        with tempfile.TemporaryDirectory() as output:
            command = [sys.executable, "-m", "ftrun", str(ROOT / "recipes" / f"{name}.yaml")]
            subprocess.run([*command, "--set", f"output={output}"], check=True, capture_output=True)
            events = [line for file in Path(output).glob("*/events.jsonl") for line in file.open()]
        print(f"recipes/{name}.yaml: {len(events)} events", *events)


def train_sft(sets: list[str]) -> tuple[float, list[float]]:
    """CPU seconds of the steps, and their losses."""
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-c", TIMED, str(ROOT / "recipes" / "sft.yaml"), f"output={output}", *sets]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        shown = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
        (journal,) = Path(output).glob("*/metrics.jsonl")
        entries = [json.loads(line)["metrics"] for line in journal.read_text().splitlines()]
    seconds = float(shown.partition("SECONDS ")[2])
    return seconds, [entry["train/loss"] for entry in entries if "train/loss" in entry]


if __name__ == "__main__":
    main()
