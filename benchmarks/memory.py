"""Predicted memory of a training step against what torch's CPU allocator measures, and the closed form against both.

    python benchmarks/memory.py          # the table: small models, full and LoRA, checkpointed or not; and an 8B shape
    python benchmarks/memory.py --fit    # fit the closed form's coefficients anew (half an hour)

Nothing is downloaded: models are made of configurations, and the tokenizer is that of `tiny`.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np

from ftrun.runner.libraries import settle_libraries

settle_libraries()

from datasets import Dataset  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM  # noqa: E402

from ftrun.checks.stages import AtData  # noqa: E402
from ftrun.runner.plan import closed  # noqa: E402
from ftrun.runner.plan.closed import Load, count_resident, measure_features, predict_parts  # noqa: E402
from ftrun.runner.plan.footprint import Footprint, models_of, prepare_step, run_step  # noqa: E402
from ftrun.runner.plan.live_bytes import LiveBytes  # noqa: E402
from ftrun.runner.plan.prediction import SHALLOW, Prediction, extrapolate, prepare_prediction  # noqa: E402
from ftrun.runner.plan.rows import longest_rows  # noqa: E402
from ftrun.runner.plan.shape import read_shape  # noqa: E402
from ftrun.runner.preflight import ascend  # noqa: E402
from ftrun.runner.step import checkpointed  # noqa: E402
from ftrun.runner.trial import count_items  # noqa: E402

LORA = {"r": 16, "target_modules": "all-linear"}
COEFFICIENTS = Path(closed.__file__).with_name("coefficients.json")


def write_model(folder: Path, config: Mapping[str, Any]) -> None:
    """A model folder with a configuration and a tokenizer, and without weights."""
    from ftrun.runner import tiny

    folder.mkdir(parents=True, exist_ok=True)
    for name in tiny.TOKENIZER_FILES:
        copyfile(Path(tiny.__file__).with_name("tiny_tokenizer") / name, folder / name)
    (folder / "config.json").write_text(json.dumps(config))


def build_data(folder: Path, config: Mapping[str, Any], load: Mapping[str, Any]) -> AtData:
    """The data stage of a recipe with a model of that configuration."""
    write_model(folder / "model", config)
    rows = [{"prompt": f"question {i}", "completion": f"answer {i}"} for i in range(16)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "name": "memory",
        "method": "sft",
        "model": {"path": "./model", "dtype": load["dtype"]},
        "data": {"train": [{"path": "rows.jsonl"}]},
        "training": {
            "gradient_checkpointing": load["checkpointed"],
            "bf16": load["mixed"],
            "logging_steps": 1,
            "max_length": 65536,
            "use_cpu": True,
            "seed": 0,
        },
    }
    if load["lora"] is not None:
        recipe["model"] |= {"lora": load["lora"]}  # type: ignore[operator]
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    at = ascend(folder / "recipe.yaml", checks=[], upto=AtData, needed=AtData).at
    assert isinstance(at, AtData), "the data stage was not reached"
    return at


def make_rows(rows: int, tokens: int) -> Dataset:
    """Rows of one length, of which every token trains."""
    ids = [[5 + i % 50 for i in range(tokens)]] * rows
    return Dataset.from_dict({"input_ids": ids, "labels": ids})


def predict(prediction: Prediction, rows: int, tokens: int, *, accumulate: bool = False) -> Footprint:
    """The footprint of a step on rows of one length."""
    dataset = make_rows(rows, tokens)
    for rig in prediction.rigs:
        rig.at.trainer.train_dataset = dataset
    return prediction.predict(rows, accumulate=accumulate)


@dataclass(frozen=True)
class Case:
    """A small model and how it is trained."""

    kind: str
    lora: bool
    checkpointed: bool
    mixed: bool = False
    heads: int = 4

    @property
    def config(self) -> dict[str, Any]:
        """Its configuration."""
        if self.kind == "gpt2":
            sizes = {
                "n_embd": 256,
                "n_head": self.heads,
                "n_layer": 4,
                "vocab_size": 8192,
                "n_positions": 512,
            }
            return {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], **sizes}
        return {
            "model_type": self.kind,
            "architectures": [f"{self.kind.capitalize()}ForCausalLM"],
            "vocab_size": 8192,
            "hidden_size": 256,
            "intermediate_size": 768,
            "num_hidden_layers": 4,
            "num_attention_heads": self.heads,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "tie_word_embeddings": self.kind == "qwen3",
        }

    @property
    def load(self) -> dict[str, Any]:
        """How it is trained."""
        # GPT-2's linear modules hold their weights transposed.
        lora = {**LORA, "r": 8, "fan_in_fan_out": self.kind == "gpt2"} if self.lora else None
        return {"dtype": "float32", "mixed": self.mixed, "checkpointed": self.checkpointed, "lora": lora}


CASES = (
    Case("llama", lora=False, checkpointed=False),
    Case("llama", lora=False, checkpointed=True),
    Case("llama", lora=True, checkpointed=False),
    Case("llama", lora=True, checkpointed=True),
    Case("llama", lora=False, checkpointed=False, mixed=True),
    Case("qwen3", lora=False, checkpointed=False, heads=8),
    Case("qwen3", lora=True, checkpointed=True, heads=8),
    Case("gpt2", lora=False, checkpointed=False),
    Case("gpt2", lora=False, checkpointed=True),
    Case("gpt2", lora=True, checkpointed=False),
)
ROWS, TOKENS = 2, 384


class Silent:
    """Observes nothing."""

    def enter(self, part: str) -> None:
        """Nothing."""

    def accumulated(self, parameter: Any) -> None:
        """Nothing."""


def measure(at: AtData, folder: Path, rows: int, tokens: int) -> int:
    """The peak that torch's CPU allocator reports for a step of the real trainer, with all that it holds."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    model_folder = Path(at.model_folder)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model_folder)).save_pretrained(model_folder)
    at = replace(at, train_dataset=make_rows(rows, tokens))
    trainer = importlib.import_module("ftrun.runner.methods.sft").build_model(at, folder).trainer
    batch = trainer.data_collator(longest_rows(trainer.train_dataset, rows))
    items = count_items(trainer, batch)
    prepare_step(trainer, keep=False)
    gc.collect()
    state = [value for values in trainer.optimizer.state.values() for value in values.values()]
    models = [one for model in models_of(trainer).values() for one in (*model.parameters(), *model.buffers())]
    held = LiveBytes([*models, *state, *batch.values()]).alive
    with checkpointed(trainer), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run_step(trainer, batch, items, Silent())
    known = [
        (event.start_time_ns, event.extra_fields.alloc_size)
        for event in _events(profiler.profiler.kineto_results.experimental_event_tree())
        if event.tag == torch._C._profiler._EventType.Allocation
    ]
    alive = np.cumsum([size for _, size in sorted(known, key=lambda one: one[0])])
    return held + int(alive.max())


def _events(events: Any) -> Iterator[Any]:
    for event in events:
        yield event
        yield from _events(event.children)


def compare(case: Case, folder: Path) -> tuple[int, int]:
    """Predicted and measured peak of a case."""
    at = build_data(folder, case.config, case.load)
    found = predict(prepare_prediction(at, folder / "trainer", cuda=False), ROWS, TOKENS)
    return found.peak, measure(at, folder / "trainer", ROWS, TOKENS)


LARGE = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}
"""The shape of Llama 3.1 8B."""

MIDDLE: dict[str, dict[str, Any]] = {
    "qwen3": {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "vocab_size": 151936,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "tie_word_embeddings": True,
    },
    "gpt2": {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
    },
}
"""The shapes of Qwen 3 0.6B and GPT-2."""


def show() -> None:
    """Print the table."""
    print(f"{'':44}{'fake MiB':>10}{'allocator':>10}{'error':>8}")
    for case in CASES:
        with tempfile.TemporaryDirectory() as name:
            fake, real = compare(case, Path(name))
        how = f"{case.kind} {'LoRA' if case.lora else 'full'}{' bf16' if case.mixed else ''}"
        how += ", checkpointed" if case.checkpointed else ""
        print(f"{how:44}{fake / 2**20:10.2f}{real / 2**20:10.2f}{fake / real - 1:+8.2%}", flush=True)
    print(
        f"{'8B, 4 × 2048 tokens, on a GPU':44}{'fake GiB':>10}{'closed':>10}{'error':>8}{'CPU s':>8}{'whole':>8}"
    )
    for lora, kept in product((None, LORA), (False, True)):
        dtype = "bfloat16"
        load: dict[str, Any] = {"dtype": dtype, "mixed": True, "checkpointed": kept, "lora": lora}
        with tempfile.TemporaryDirectory() as name:
            at = build_data(Path(name), LARGE, load)
            began = time.process_time()
            found = predict(prepare_prediction(at, Path(name), cuda=True), 4, 2048)
            seconds = time.process_time() - began
            exact = predict(prepare_prediction(at, Path(name), cuda=True, exact=True), 4, 2048)
        closed_form = max(predict_parts(Load(read_shape(LARGE), 4, 2048, cuda=True, **load)).values())
        how = f"{'full' if lora is None else 'LoRA r16'}{', checkpointed' if kept else ''}"
        line = f"{how:44}{found.peak / 2**30:10.2f}{closed_form / 2**30:10.2f}"
        print(
            f"{line}{closed_form / found.peak - 1:+8.2%}{seconds:8.2f}{found.peak / exact.peak - 1:+8.2%}",
            flush=True,
        )


FITTED = ("llama", "qwen3", "gpt2")
KINDS = (("float32", False, False), ("float32", True, True), ("bfloat16", True, True))
SHAPES, LOADS = 10, 3


def draw_config(family: str, random: np.random.Generator) -> dict[str, Any]:
    """A configuration of some size."""
    size, heads = int(random.choice([64, 128])), int(random.choice([4, 8, 16, 24, 32]))
    words, layers = int(random.choice([8192, 32000, 50257, 128256])), int(random.integers(8, 40))
    if family == "gpt2":
        sizes = {"n_embd": size * heads, "n_head": heads, "n_layer": layers, "vocab_size": words}
        return {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "n_positions": 8192,
            "n_inner": int(size * heads * random.choice([2, 3, 4])),
            **sizes,
        }
    hidden = size * heads if family == "llama" else int(random.choice([512, 1024, 2048, 4096]))
    return {
        "model_type": family,
        "architectures": [f"{family.capitalize()}ForCausalLM"],
        "vocab_size": words,
        "hidden_size": hidden,
        "intermediate_size": int(128 * round(hidden * random.uniform(2, 4) / 128)),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": int(heads // random.choice([1, 2, 4])),
        "head_dim": size,
        "max_position_embeddings": 65536,
        "tie_word_embeddings": bool(random.integers(2)),
    }


def draw_samples(family: str, load: Mapping[str, Any], cuda: bool) -> Iterator[tuple[Load, Footprint]]:
    """Loads of several shapes and sizes, each with the footprint that fake tensors give."""
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        at = build_data(folder, draw_config(family, random), load)
        for _ in range(SHAPES):
            config = draw_config(family, random)
            write_model(folder / "model", config)
            prediction = prepare_prediction(at, folder / "trainer", cuda=cuda)
            shape = read_shape(config)
            for _ in range(LOADS):
                rows, tokens = int(random.choice([1, 2, 4, 8])), int(random.choice([256, 512, 1024, 2048]))
                shallow = [predict(replace(prediction, rigs=(rig,)), rows, tokens) for rig in prediction.rigs]
                depths = [*SHALLOW, shape.layers]
                for depth, found in zip(
                    depths, [*shallow, extrapolate(shallow[0], shallow[1], shape.layers)], strict=True
                ):
                    known = replace(shape, layers=depth)
                    parts = {name: part for name, part in found.parts.items() if not name.endswith("inner")}
                    yield Load(known, rows, tokens, cuda=cuda, **load), replace(found, parts=parts)


def fit() -> None:
    """Write the coefficients of every kind of load, and print how far they are off at most."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    with suppress(FileNotFoundError):
        table = json.loads(COEFFICIENTS.read_text())
    for family, (dtype, mixed, cuda), lora, kept in product(FITTED, KINDS, (None, LORA), (False, True)):
        if lora is not None and dtype == "float32" and cuda:
            continue  # the base under LoRA is in bfloat16 on a GPU
        load = {"dtype": dtype, "mixed": mixed, "lora": lora, "checkpointed": kept}
        samples = list(draw_samples(family, load, cuda))
        table[samples[0][0].key] = dict(fit_parts(samples))
        COEFFICIENTS.write_text(json.dumps(table, indent=1) + "\n")
        closed.read_coefficients.cache_clear()
        errors = [max(predict_parts(known).values()) / found.peak - 1 for known, found in samples]
        print(f"{samples[0][0].key}: {min(errors):+.2%} to {max(errors):+.2%}", flush=True)


def fit_parts(samples: list[tuple[Load, Footprint]]) -> Iterator[tuple[str, dict[str, float]]]:
    """Coefficients of each part of a step, of those whose peak has two causes twice: the larger sum counts."""
    names = list(dict.fromkeys(name for known, _ in samples for name in measure_features(known)))
    for part in samples[0][1].parts:
        if part == "update":
            continue
        rows, wanted = [], []
        for known, found in samples:
            resident, features = count_resident(known), measure_features(known)
            rows.append([features.get(name, 0.0) / found.peak for name in names])
            wanted.append((found.parts[part].bytes - resident.weights - resident.optimizer) / found.peak)
        for number, solution in enumerate(fit_largest(np.array(rows), np.array(wanted))):
            label = part.rpartition(".")[2] + closed.AGAIN * number
            pairs = zip(names, solution, strict=True)
            yield label, {name: round(float(value), 4) for name, value in pairs if value > 1e-4}


def fit_largest(rows: Any, wanted: Any) -> list[Any]:
    """One vector of coefficients where that is within a percent, else two, of which the larger product counts."""
    from scipy.optimize import nnls  # type: ignore[import-untyped]

    whole = nnls(rows, wanted, maxiter=10000)[0]
    off = rows @ whole - wanted
    best, error = [whole], float(abs(off).max())
    if error < 0.005:
        return best
    # The division is sought from several beginnings: by the sign of the error, and by each feature's median.
    for beginning in (off > 0, *(column > np.median(column) for column in rows.T)):
        chosen = beginning
        for _ in range(20):
            if min(chosen.sum(), (~chosen).sum()) < 8:
                break
            pair = [nnls(rows[mask], wanted[mask], maxiter=10000)[0] for mask in (chosen, ~chosen)]
            products = [rows @ one for one in pair]
            worst = float(abs(np.maximum(*products) - wanted).max())
            best, error = (pair, worst) if worst < error else (best, error)
            chosen = products[0] >= products[1]
    return best


if __name__ == "__main__":
    fit() if "--fit" in sys.argv else show()
