"""`ftrun recipes/sft.yaml`, dpo.yaml or reward.yaml against a plain TRL script that does the same training.

    python benchmarks/against_trl.py [--method sft] [--pairs 5] [--set training.num_train_epochs=1]

Runs both in turn, each in a process of its own with one thread (several would wait for each other whenever
anything else runs), and prints the median of the ratios pair by pair:
  rate    steps per second over the second half of the run, evaluations and checkpoints included
  total   seconds from start to end of the process; ftrun's without its preflight, and without the questions
          that it asks the trained model, which the script does not ask
ftrun's runs share one output folder, as a user's do; a first one, which makes the MLflow store, is not counted.
The script tokenises, trains, evaluates and saves with the same settings, rows and seed, and logs nowhere;
ftrun also keeps its journal and MLflow. Both end with the same training losses, which is asserted. For DPO, ftrun
also measures the exact KL to the reference at each evaluation, which TRL does not; it is part of its time.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

SCRIPT = """
import json, os, sys, time
os.environ.update(HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_OFFLINE="1")
import trl
from datasets import load_dataset
from transformers import (AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback,
                          set_seed)
method, model_folder, train, held_out, output, training = *sys.argv[1:6], json.loads(sys.argv[6])
times = []
class Clock(TrainerCallback):
    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            times.append((state.global_step, time.time(), logs["loss"]))
rows = load_dataset("json", data_files={"train": train, "eval": held_out}, cache_dir=output)
Config, Trainer = {"sft": (trl.SFTConfig, trl.SFTTrainer), "dpo": (trl.DPOConfig, trl.DPOTrainer),
                   "reward": (trl.RewardConfig, trl.RewardTrainer)}[method]
config = Config(output_dir=output, report_to="none", bf16=False, disable_tqdm=True, dataloader_pin_memory=False,
                **training)
set_seed(config.seed)
if method == "reward":
    model = AutoModelForSequenceClassification.from_pretrained(model_folder, num_labels=1, dtype="float32")
else:
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype="float32")
tokenizer = AutoTokenizer.from_pretrained(model_folder)
trainer = Trainer(model=model, args=config, train_dataset=rows["train"], eval_dataset=rows["eval"],
                  processing_class=tokenizer, callbacks=[Clock()])
trainer.train()
trainer.save_model(output + "/model")
print("TIMES " + json.dumps(times))
"""


def main() -> None:
    os.environ.update({"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"})
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", choices=("sft", "dpo", "reward"), default="sft")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of ftrun")
    given = parser.parse_args()
    recipe, pairs = ROOT / "recipes" / f"{given.method}.yaml", given.pairs
    rows = []
    output = Path(tempfile.mkdtemp())
    run_ftrun(recipe, given.set, output)
    for number in range(pairs):
        ours, theirs = run_ftrun(recipe, given.set, output), run_trl(recipe, given.set)
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


def run_ftrun(recipe: Path, sets: list[str], output: Path) -> dict[str, Any]:
    began = time.time()
    sets = [word for one in (f"output={output}", *sets) for word in ("--set", one)]
    command = [sys.executable, "-m", "ftrun", str(recipe), *sets]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds = time.time() - began
    run = max(output.glob("support-*"), key=lambda one: one.stat().st_mtime)
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    report = json.loads((run / "preflight.json").read_text())
    logged = [
        (one["step"], one["time"] / 1000, one["metrics"]["train/loss"])
        for one in entries
        if "train/loss" in one["metrics"]
    ]
    asked = float(re.findall(r"\((\d+\.\d) s\)$", shown, re.MULTILINE)[0])
    # Building rows and model is what any training pays for; preflight is the checks and the dry step.
    extra = sum(one["seconds"] for one in report["checks"]) + report["seconds"]["step"] + asked
    return {**_measure(logged), "total": seconds - extra, "extra": extra}


def run_trl(path: Path, sets: list[str]) -> dict[str, Any]:
    from ftrun.runner.tiny import locate
    from ftrun.schemas.load import load_recipe

    recipe = load_recipe(path, sets).recipe
    training = {name: value for name, value in recipe.training.items() if name != "gradient_checkpointing"}
    training["activation_checkpointing"] = False
    if recipe.method == "sft":
        training["assistant_only_loss"] = True
    data: Any = recipe.data
    files = [str(path.parent / source.path) for source in (*data.train, *data.eval)]
    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        command = [sys.executable, "-c", SCRIPT, recipe.method, str(locate()), *files, folder]
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
