"""Seconds from the command to the end of the first training step: `ftrun RECIPE` against a plain TRL script.

    python benchmarks/first_step.py [--rows 2000] [--pairs 5]

Rows, tokenizer and a Llama of 256 × 4 are made as in `data_stage.py`. The two run in turn, ftrun with its preflight,
guards and MLflow, the script with none of them, and each process is ended when its first step has been logged. Cold
runs find nothing of an earlier one: no tokens, no data set of the `datasets` cache, no MLflow store. Warm ones are the
second of the same, with everything that the first left. Both print wall seconds, the medians of the ratios pair by
pair last. Processor seconds of the whole process tree stand beside them, for a machine that does other things too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from data_stage import write_model, write_rows

TRAINING: dict[str, Any] = {
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-4,
    "warmup_steps": 0.03,
    "max_length": 512,
    "logging_steps": 1,
    "save_strategy": "no",
    "use_cpu": True,
    "bf16": False,
    "seed": 1,
}

SCRIPT = """
import json, sys
import trl
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
model, rows, output, training = *sys.argv[1:4], json.loads(sys.argv[4])
class Clock(TrainerCallback):
    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            open(output + "/logged", "w").close()
training["activation_checkpointing"] = False
config = trl.SFTConfig(output_dir=output, report_to="none", disable_tqdm=True, **training)
trl.SFTTrainer(model=AutoModelForCausalLM.from_pretrained(model), args=config, callbacks=[Clock()],
               train_dataset=load_dataset("json", data_files=rows, split="train"),
               processing_class=AutoTokenizer.from_pretrained(model)).train()
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--pairs", type=int, default=5)
    given = parser.parse_args()
    ratios: dict[str, list[float]] = {"cold": [], "warm": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder, given.rows)
        write_model(folder, hidden_size=256, num_hidden_layers=4)
        recipe = json.loads((folder / "pairs.yaml").read_text())
        recipe["training"] = TRAINING
        (folder / "pairs.yaml").write_text(json.dumps(recipe))
        for pair in range(1, given.pairs + 1):
            for left in ("ours", "theirs", "runs"):
                shutil.rmtree(folder / left, ignore_errors=True)
            for state, told in ratios.items():
                ours, theirs = time_ftrun(folder), time_trl(folder)
                told.append(ours[0] / theirs[0])
                print(
                    f"pair {pair}, {state}: {ours[0]:.2f} against {theirs[0]:.2f} s: {told[-1]:.2f} times; "
                    f"processor {ours[1]:.1f} against {theirs[1]:.1f} s",
                    flush=True,
                )
    for state, told in ratios.items():
        print(f"{given.rows:,} rows, {state}: {statistics.median(told):.2f} times TRL's wall seconds")


def time_ftrun(folder: Path) -> tuple[float, float]:
    """Wall and processor seconds of `ftrun RECIPE` until its journal has the loss of a step."""

    def is_logged() -> bool:
        journals = (folder / "runs").glob("*/metrics.jsonl")
        return any("train/loss" in one.read_text() for one in journals if not (one.parent / "seen").exists())

    told = _time([sys.executable, "-m", "ftrun", str(folder / "pairs.yaml")], folder / "ours", is_logged)
    for run in (folder / "runs").glob("*/metrics.jsonl"):
        (run.parent / "seen").touch()
    return told


def time_trl(folder: Path) -> tuple[float, float]:
    """Wall and processor seconds of the script until it has logged the loss of a step."""
    output = folder / "theirs"
    output.mkdir(exist_ok=True)
    (output / "logged").unlink(missing_ok=True)
    words = [str(folder / "model"), str(folder / "pairs.jsonl"), str(output), json.dumps(TRAINING)]
    return _time([sys.executable, "-c", SCRIPT, *words], output, (output / "logged").exists)


def _time(command: list[str], cache: Path, is_logged: Any) -> tuple[float, float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    variables = {"HF_HOME": str(cache), "FTRUN_CACHE": str(cache / "ftrun"), "HF_HUB_OFFLINE": "1"}
    began = time.monotonic()
    with tempfile.TemporaryFile() as shown:
        process = subprocess.Popen(
            command, env={**os.environ, **variables}, stdout=shown, stderr=shown, start_new_session=True
        )
        while not is_logged():
            time.sleep(0.005)
            if process.poll() is not None:
                shown.seek(0)
                sys.exit(shown.read().decode())
        took = time.monotonic() - began
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
