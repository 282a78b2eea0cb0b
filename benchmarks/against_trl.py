"""`ftrun recipes/sft.yaml` against a plain TRL script that does the same training.

    python benchmarks/against_trl.py [--pairs 5]

Runs both in turn, each in a process of its own with one thread (several would wait for each other whenever
anything else runs), and prints the median of the ratios pair by pair:
  rate    steps per second over the second half of the run, evaluations and checkpoints included
  total   seconds from start to end of the process; ftrun's without its preflight, and without the questions
          that it asks the trained model, which the script does not ask
ftrun's runs share one output folder, as a user's do; a first one, which makes the MLflow store, is not counted.
The script tokenises, trains, evaluates and saves with the same settings, rows and seed, and logs nowhere;
ftrun also keeps its journal and MLflow. Both end with the same training loss, which is asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes" / "sft.yaml"

SCRIPT = """
import json, os, sys, time
os.environ.update(HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_OFFLINE="1")
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer
model_folder, data, output, training = sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
logs = []
class Clock(TrainerCallback):
    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            times.append((state.global_step, time.time(), logs["loss"]))
times = []
rows = load_dataset("json", data_files={"train": f"{data}/support.train.jsonl",
                                        "eval": f"{data}/support.heldout.jsonl"}, cache_dir=output)
trainer = SFTTrainer(
    model=AutoModelForCausalLM.from_pretrained(model_folder, dtype="float32"),
    args=SFTConfig(output_dir=output, report_to="none", bf16=False, assistant_only_loss=True,
                   disable_tqdm=True, dataloader_pin_memory=False, **training),
    train_dataset=rows["train"], eval_dataset=rows["eval"],
    processing_class=AutoTokenizer.from_pretrained(model_folder), callbacks=[Clock()],
)
trainer.train()
trainer.save_model(output + "/model")
print("TIMES " + json.dumps(times))
"""


def main() -> None:
    os.environ.update({"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"})
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5)
    pairs = parser.parse_args().pairs
    rows = []
    output = Path(tempfile.mkdtemp())
    run_ftrun(output)
    for number in range(pairs):
        ours, theirs = run_ftrun(output), run_trl()
        assert ours["losses"] == theirs["losses"], "the two do not do the same training"
        rows.append((ours["rate"] / theirs["rate"], ours["total"] - theirs["total"], ours, theirs))
        print(
            f"pair {number + 1}: rate {ours['rate']:.2f} against {theirs['rate']:.2f} steps/s, "
            f"total {ours['total']:.1f} (and {ours['extra']:.1f} for preflight and questions) "
            f"against {theirs['total']:.1f} s"
        )
    print(f"rate: {statistics.median(row[0] for row in rows):.3f} of TRL's (median of {pairs} pairs)")
    print(
        f"total: {statistics.median(row[1] for row in rows):+.1f} s besides preflight (median of {pairs} pairs)"
    )
    shutil.rmtree(output)


def run_ftrun(output: Path) -> dict[str, Any]:
    began = time.time()
    command = [sys.executable, "-m", "ftrun", str(RECIPE), "--set", f"output={output}"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds = time.time() - began
    run = max(output.glob("support-routing-*"), key=lambda one: one.stat().st_mtime)
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    report = json.loads((run / "preflight.json").read_text())
    logged = [
        (one["step"], one["time"] / 1000, one["metrics"]["train/loss"])
        for one in entries
        if "train/loss" in one["metrics"]
    ]
    asked = float(shown.partition("held-out rows (")[2].partition(" s)")[0])
    # Building rows and model is what any training pays for; preflight is the checks and the dry step.
    extra = sum(one["seconds"] for one in report["checks"]) + report["seconds"]["step"] + asked
    return {**_measure(logged), "total": seconds - extra, "extra": extra}


def run_trl() -> dict[str, Any]:
    from ftrun.runner.tiny import locate
    from ftrun.schemas.load import load_recipe

    training = {
        name: value
        for name, value in load_recipe(RECIPE).recipe.training.items()
        if name != "gradient_checkpointing"
    }
    training["activation_checkpointing"] = False
    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        command = [sys.executable, "-c", SCRIPT, str(locate()), str(ROOT / "recipes" / "data"), folder]
        shown = subprocess.run(
            [*command, json.dumps(training)], check=True, capture_output=True, text=True
        ).stdout
        seconds = time.time() - began
    return {**_measure(json.loads(shown.partition("TIMES ")[2])), "total": seconds}


def _measure(logged: list[Any]) -> dict[str, Any]:
    steps, times, losses = zip(*logged, strict=True)
    half = len(steps) // 2
    return {"rate": (steps[-1] - steps[half]) / (times[-1] - times[half]), "losses": losses}


if __name__ == "__main__":
    main()
