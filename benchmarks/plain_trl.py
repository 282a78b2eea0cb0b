"""A plain TRL script for a world: its own trainer, built of the same files with the same settings.

What such a script says of a fault is what it raises, and the warnings of Python and of the libraries' loggers that it
does not give for the healthy world.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import yaml
from tests.faults.plants import PlainRun, Planting

from ftrun.checks.stages import AtModel
from ftrun.checks.testing import World
from ftrun.runner.model import read_chat_template
from ftrun.runner.tiny import locate

STEPS = 8
"""Optimizer steps at most: an epoch of the worlds."""

LOGGERS = ("transformers", "trl", "peft", "accelerate", "datasets", "torch")
Verdict = Literal["raises", "warns", "silent", "n/a"]


@dataclass(frozen=True)
class TrlOutcome:
    """What plain TRL did."""

    verdict: Verdict
    text: str
    """The error, the first warning, or why the fault cannot be had there."""


def run_planted(
    planting: Planting, make: Callable[[Path], World], folder: Path, usual: set[str]
) -> TrlOutcome:
    """What TRL says of a planted fault. `usual`: what it says of the healthy world, see `listen_to_healthy`."""
    if isinstance(planting.trl, str):
        return TrlOutcome("n/a", planting.trl)
    world = _write(make, folder, planting.plant)
    damages = [*([planting.trl] if planting.trl else []), *world.damages.get(AtModel, ())]
    said, error = _listen(world, damages)
    if error is not None:
        return TrlOutcome("raises", f"{type(error).__name__}: {_first_line(str(error))}")
    new = [one for one in said if _key(one) not in usual]
    return TrlOutcome("warns", _first_line(new[0])) if new else TrlOutcome("silent", "")


def listen_to_healthy(make: Callable[[Path], World], folder: Path) -> set[str]:
    """What TRL says of the healthy world. Raises whatever a plain script of it raises."""
    said, error = _listen(_write(make, folder, lambda world: None), [])
    if error is not None:
        raise error
    return {_key(one) for one in said}


def _write(make: Callable[[Path], World], folder: Path, plant: Callable[[World], None]) -> World:
    world = make(folder / "world")
    world.folder.mkdir(parents=True, exist_ok=True)
    plant(world)
    world.write()
    return world


def _listen(world: World, damages: list[Any]) -> tuple[list[str], Exception | None]:
    """What is said while the script runs, and what it raises."""
    error = None
    with _ears() as said, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        try:
            run = build(world)
            for damage in damages:
                run = damage(run)
            run.trainer.train()
        except Exception as raised:  # whatever it raises is the outcome
            error = raised
    return said, error


def build(world: World) -> PlainRun:
    """TRL's trainer for the method of a world, from its files."""
    import trl
    from transformers import AutoTokenizer, TrainerCallback

    recipe: Mapping[str, Any] = yaml.safe_load(world.recipe_text) if world.recipe_text else world.recipe
    method, model = recipe["method"], recipe["model"]
    config, trainer_class = {
        "sft": (trl.SFTConfig, trl.SFTTrainer),
        "dpo": (trl.DPOConfig, trl.DPOTrainer),
        "reward": (trl.RewardConfig, trl.RewardTrainer),
    }[method]
    path = str(locate()) if model["path"] == "tiny" else model["path"]
    train, evaluation = _read_rows(world, recipe)
    arguments = config(
        output_dir=str(world.folder / "out"),
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **_settings(recipe, train.column_names),
    )
    tokenizer = AutoTokenizer.from_pretrained(path)
    if model.get("chat_template"):
        tokenizer.chat_template = read_chat_template(model["chat_template"], world.folder)

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step >= STEPS

    trainer = trainer_class(
        model=path,
        args=arguments,
        train_dataset=train,
        eval_dataset=evaluation,
        processing_class=tokenizer,
        peft_config=_adapters(model.get("lora"), method),
        callbacks=[Stop()],
    )
    return PlainRun(trainer, trainer.model, tokenizer)


def _settings(recipe: Mapping[str, Any], columns: list[str]) -> dict[str, Any]:
    """The recipe's own settings as TRL's config takes them."""
    settings = {"bf16": False, "dataloader_pin_memory": False, **recipe["training"]}
    model = recipe["model"]
    loading = {"dtype": model.get("dtype", "float32"), **(settings.pop("model_init_kwargs", None) or {})}
    if model.get("quantization"):
        from transformers import BitsAndBytesConfig

        loading["quantization_config"] = BitsAndBytesConfig(load_in_4bit=True)
    if recipe["method"] == "sft" and "messages" in columns:
        # What ftrun trains of conversations unless told otherwise.
        settings["assistant_only_loss"] = recipe["data"].get("loss_on", "assistant") == "assistant"
    return {**settings, "model_init_kwargs": loading}


def _adapters(lora: Mapping[str, Any] | None, method: str) -> Any:
    if lora is None:
        return None
    from peft import LoraConfig

    return LoraConfig(**{**lora, "task_type": "SEQ_CLS" if method == "reward" else "CAUSAL_LM"})


def _read_rows(world: World, recipe: Mapping[str, Any]) -> tuple[Any, Any]:
    data = recipe["data"]
    train, evaluation = _read(world, data["train"][0]), data.get("eval")
    if isinstance(evaluation, list):
        return train, _read(world, evaluation[0])
    if evaluation:
        parts = train.train_test_split(evaluation["fraction"], seed=0)
        return parts["train"], parts["test"]
    return train, None


def _read(world: World, source: Mapping[str, Any]) -> Any:
    from datasets import load_dataset

    rows = load_dataset(
        "json",
        data_files=str(world.folder / source["path"]),
        split="train",
        cache_dir=str(world.folder / "cache"),
    )
    return rows.rename_columns({theirs: ours for ours, theirs in source.get("columns", {}).items()})


@dataclass
class _Ear(logging.Handler):
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(logging.WARNING)

    def __hash__(self) -> int:
        return id(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


@contextmanager
def _ears() -> Iterator[list[str]]:
    """Collects warnings of Python and of the libraries' loggers, those too that are given once in a process."""
    from transformers.utils import logging as theirs

    ear = _Ear()
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in LOGGERS)]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.addHandler(ear)
        one.setLevel(logging.WARNING)
    theirs.warning_once.cache_clear()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield ear.said
        ear.said += [
            str(one.message)
            for one in caught
            if not issubclass(one.category, DeprecationWarning | FutureWarning)
        ]
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.removeHandler(ear)
            one.setLevel(level)


def _key(text: str) -> str:
    """A message without what differs from run to run: numbers and paths."""
    return re.sub(r"\S*/\S*|[\d.]+", "#", _first_line(text))


def _first_line(text: str) -> str:
    """The first line that says something, without colours and without the folders of this machine."""
    plain = re.sub(r"(?<!\w)/(?:[^\s/]+/)+", "…/", re.sub(r"\x1b\[[\d;]*m", "", text))
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    return lines[0] if lines else "no text"
