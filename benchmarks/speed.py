"""Tokens per second of supervised training with what ftrun chooses, against plain TRL at the same effective batch.

    python benchmarks/speed.py DATA.json [--model tiny|11m|FOLDER] [--pairs 5] [--steps 8] [--batch 32]

DATA is a file of Alpaca's columns, whose answers are of mixed length. In turn, each in a process of its own with one
thread, train:
  ftrun      `ftrun RECIPE`, with its guards, its journal and MLflow
  defaults   TRL's trainer as it is, which checkpoints activations
  kept       without checkpointing
  grouped    and with `train_sampling_strategy: group_by_length`, TRL's own way to pad less, which draws other rows
Time is that of the processor, of all threads of the process that trains, from the end of the second step to the end of
the last: on a machine that does other things too it is what the work costs. Tokens are those of rows, without padding.
Printed are the medians of the ratios, turn by turn. The losses of ftrun and of `defaults` are asserted to be equal to
within 1e-4 at every step. What delivers to MLflow is a process of its own, and not counted.
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
from typing import Any

CLOCK = """
import json, sys, time
from transformers import TrainerCallback, trainer
class Clock(TrainerCallback):
    times, tokens, losses = [], [], []
    def on_step_end(self, *args, **kwargs):
        self.times.append(time.process_time())
    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.losses.append(logs["loss"])
            self.tokens.append(logs["num_tokens"])
    def on_train_end(self, *args, **kwargs):
        print("TOLD " + json.dumps([self.times, self.tokens, self.losses]))
trainer.DEFAULT_CALLBACKS.append(Clock)
"""

OURS = """
from ftrun.runner.cli import main
sys.argv = ["ftrun", sys.argv[1]]
main()
"""

THEIRS = """
import trl
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
model, rows, output, training = *sys.argv[1:4], json.loads(sys.argv[4])
config = trl.SFTConfig(output_dir=output, report_to="none", bf16=False, disable_tqdm=True,
                       dataloader_pin_memory=False, **training)
set_seed(config.seed)
trl.SFTTrainer(model=AutoModelForCausalLM.from_pretrained(model, dtype="float32"), args=config,
               train_dataset=load_dataset("json", data_files=rows, split="train", cache_dir=output),
               processing_class=AutoTokenizer.from_pretrained(model)).train()
"""

FLAGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "kept": {"activation_checkpointing": False},
    "grouped": {"activation_checkpointing": False, "train_sampling_strategy": "group_by_length"},
}

Told = tuple[float, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=32)
    given = parser.parse_args()
    os.environ.update({"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, rows = make_model(given.model, folder / "model"), write_rows(given.data, folder / "rows.jsonl")
        training = {
            "learning_rate": 1e-3,
            "per_device_train_batch_size": given.batch,
            "max_length": 1024,
            "max_steps": given.steps,
            "logging_steps": 1,
            "save_strategy": "no",
            "seed": 1,
        }
        ratios: dict[str, list[float]] = {name: [] for name in FLAGS}
        for number in range(given.pairs):
            ours, losses = run_ftrun(model, rows, training, folder)
            for name, flags in FLAGS.items():
                theirs, others = run_trl(model, rows, training | flags, folder)
                ratios[name].append(ours / theirs)
                if name == "defaults":
                    apart = max(abs(a / b - 1) for a, b in zip(losses, others, strict=True))
                    assert apart < 1e-4, f"the losses are {apart:.2g} apart"
            told = ", ".join(f"{name} {values[-1]:.2f}" for name, values in ratios.items())
            print(f"turn {number + 1}: {ours:,.0f} tokens a second; times TRL: {told}", flush=True)
    for name, values in ratios.items():
        print(f"{statistics.median(values):.2f} times TRL's tokens per second ({name})")


def write_rows(data: Path, path: Path) -> Path:
    """Prompt and completion of each row, as both sides read them."""
    with path.open("w", encoding="utf-8") as file:
        for row in json.loads(data.read_text(encoding="utf-8")):
            prompt = "\n".join(filter(None, (row["instruction"], row.get("input")))) + "\n"
            file.write(json.dumps({"prompt": prompt, "completion": row["output"]}) + "\n")
    return path


def make_model(name: str, folder: Path) -> str:
    """The folder of a model; `11m` is a Llama with the tokenizer of `tiny`, drawn here."""
    from ftrun.runner.tiny import locate

    if name == "tiny":
        return str(locate())
    if name != "11m":
        return name
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    config = LlamaConfig.from_pretrained(
        locate(),
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=6,
        head_dim=64,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(locate()).save_pretrained(folder)
    return str(folder)


def run_ftrun(model: str, rows: Path, training: dict[str, Any], folder: Path) -> Told:
    recipe = {
        "name": "speed",
        "method": "sft",
        "model": {"path": model},
        "data": {"train": [{"path": str(rows)}]},
        "training": training,
        "preflight": {"experiments": False},
        "output": str(folder / "runs"),
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    return _run([CLOCK + OURS, str(path)])


def run_trl(model: str, rows: Path, training: dict[str, Any], folder: Path) -> Told:
    return _run([CLOCK + THEIRS, model, str(rows), str(folder / "trl"), json.dumps(training)])


def _run(words: list[str]) -> Told:
    """Tokens per second, and the losses."""
    done = subprocess.run([sys.executable, "-c", *words], capture_output=True, text=True)
    if "TOLD " not in done.stdout:
        sys.exit(done.stdout + done.stderr)
    times, tokens, losses = json.loads(done.stdout.partition("TOLD ")[2].splitlines()[0])
    return (tokens[-1] - tokens[1]) / (times[-1] - times[1]), losses


if __name__ == "__main__":
    main()
