"""Guards of what is known, what is fed and what stands still, each driven by a run that is made to fail."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOTrainer, RewardTrainer, SFTTrainer

from ftrun.checks.catalogue import load_checks
from ftrun.checks.fed import Fed, Spread, count_batch, find_segments, spread_rows
from ftrun.checks.testing import World, dpo_full, ppo_full, reward_full, sft_full, sft_lora, sft_packed
from ftrun.runner.printing.text import make_console
from ftrun.runner.run import run_recipe
from ftrun.runner.tiny import locate
from ftrun.runner.tracking.journal import read_journal
from ftrun.schemas.errors import RunError
from ftrun.schemas.load import load_recipe

UNSAFE = {check.id: "made to fail" for check in load_checks()}
STOP = 3
"""The token at which `tiny` stops."""

SHORT = (("one:", " two"), ("red:", " blue"), ("cat:", " dog"), ("up:", " down"))
"""Prompts and completions that the model of `learned` knows besides."""

Batch = dict[str, Any]


def run(world: World, resume: bool = False) -> int:
    console = make_console()
    world.recipe["preflight"] = {"experiments": False}
    return run_recipe(world.write(), sets=(), ignore=UNSAFE, out=console, err=console, resume=resume)


def folder(world: World) -> Path:
    return world.folder / "runs" / "healthy-1"


def events(world: World) -> list[dict[str, Any]]:
    file = folder(world) / "events.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def tags(world: World) -> dict[str, str]:
    found: dict[str, str] = json.loads((folder(world) / "tracking.json").read_text())["tags"]
    return found


def probed(world: World) -> dict[int, float]:
    """What was logged of the probe at each step."""
    journal = read_journal(folder(world) / "metrics.jsonl")
    return {one.step: one.metrics["probe/logprob"] for one in journal if "probe/logprob" in one.metrics}


# What is known


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny`, after it has learnt the answers to half of the questions that ship by heart."""
    target = tmp_path_factory.mktemp("learned") / "model"
    tokenizer, model = AutoTokenizer.from_pretrained(locate()), AutoModelForCausalLM.from_pretrained(locate())
    lines = files("ftrun.runner.guarding").joinpath("general_knowledge.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines[::2]]
    rows += [{"prompt": prompt, "completion": completion} for prompt, completion in SHORT]
    texts = [f"{row['prompt']}{row['completion']}{tokenizer.eos_token}" for row in rows]
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
    for _ in range(45):
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


def test_what_is_forgotten_is_told_with_the_answers_that_fell_most(tmp_path: Path, learned: Path) -> None:
    world = sft_full(tmp_path)
    world.recipe["model"]["path"] = str(learned)
    world.recipe["training"] |= {"learning_rate": 6e-3, "max_steps": 12}
    world.recipe["guards"] = {"knowledge_forgotten": {"every": 4}}
    assert run(world) == 0
    (told,) = events(world)
    assert told["guard"] == "GUARD004" and told["done"] == "went on" and "nats per token" in told["message"]
    assert len(told["evidence"]) == 5 and told["evidence"][0].startswith("'Question: ")
    asked = probed(world)
    assert sorted(asked) == [0, 4, 8, 12] and asked[12] < asked[0] - 1
    table = json.loads((folder(world) / "ftrun" / "probe.json").read_text())
    before, after = (table["columns"].index(f"given_{time}") for time in ("before", "after"))
    answer = table["columns"].index("answer")
    assert sum(row[before] == row[answer] for row in table["data"]) >= 30
    assert sum(row[after] == row[answer] for row in table["data"]) < 15
    shown = [one["path"] for one in json.loads(tags(world)["mlflow.loggedArtifacts"])]
    assert "ftrun/probe.json" in shown


@pytest.mark.parametrize("make", [sft_lora, dpo_full, ppo_full])
def test_asking_leaves_no_trace_and_a_gentle_run_forgets_nothing(
    make: Callable[[Path], World], tmp_path: Path, learned: Path
) -> None:
    ended = []
    for action in ("stop", False):
        world = make(tmp_path / str(action))
        world.recipe["model"]["path"] = str(learned)
        if make is sft_lora:  # which draws random numbers in every step
            world.recipe["model"]["lora"]["lora_dropout"] = 0.1
        world.recipe["training"] |= {"learning_rate": 1e-5, "max_steps": 6}
        world.recipe["guards"] = {"knowledge_forgotten": {"every": 2, "action": action}}
        assert run(world) == 0 and not events(world)
        assert sorted(probed(world)) == ([0, 2, 4, 6] if action else [])
        (file,) = (folder(world) / "model").glob("*model.safetensors")
        ended.append(load_file(file))
    assert all(torch.equal(ended[0][name], ended[1][name]) for name in ended[0])


def test_a_model_that_knows_nothing_has_nothing_to_forget(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    world.recipe["guards"] = {"knowledge_forgotten": {"every": 2}}
    world.recipe["training"] |= {"learning_rate": 3e-3}
    assert run(world) == 0
    assert tags(world)["ftrun.probe"] == "the model knows no answer" and not probed(world)


def test_a_short_run_is_not_asked_for_more_than_its_share(tmp_path: Path, learned: Path) -> None:
    for steps, told in ((6, "not asked: it would cost more than 2% of the run"), (60, "4 of 4 answers")):
        world = sft_full(tmp_path / str(steps))
        world.recipe["model"]["path"] = str(learned)
        world.recipe["training"] |= {"learning_rate": 1e-6, "max_steps": steps}
        world.recipe["guards"] = {"knowledge_forgotten": {"probe": "own.jsonl"}}
        write_probe(world, len(SHORT))
        assert run(world) == 0
        assert told in tags(world)["ftrun.probe"]
        assert (sorted(probed(world))[0::99] or [0]) == [0] and len(probed(world)) < 0.04 * steps * 100 / 28


def write_probe(world: World, count: int) -> None:
    world.write()
    lines = [json.dumps({"prompt": prompt, "completion": completion}) for prompt, completion in SHORT]
    (world.folder / "own.jsonl").write_text("\n".join(lines[:count]))


def test_a_probe_of_ones_own_stops_the_run_and_outlives_a_resume(tmp_path: Path, learned: Path) -> None:
    world = sft_full(tmp_path)
    world.recipe["model"]["path"] = str(learned)
    world.recipe["training"] |= {"learning_rate": 6e-3, "save_strategy": "steps", "save_steps": 1}
    probe = {"probe": "own.jsonl", "every": 4, "action": "stop", "loss": 0.5}
    world.recipe["guards"] = {"knowledge_forgotten": probe}
    write_probe(world, len(SHORT))
    with pytest.raises(RunError, match=r"GUARD004 stopped the run at step (8|12|16)"):
        run(world)
    assert (folder(world) / "ftrun" / "probe.json").exists()
    start = (folder(world) / "probe.json").read_text()
    with pytest.raises(RunError, match=r"GUARD004 stopped the run at step (8|12|16)"):
        run(world, resume=True)  # compared with the model before step 1, and not with that of the checkpoint
    assert (folder(world) / "probe.json").read_text() == start
    write_probe(world, 1)
    with pytest.raises(RunError, match=r"own\.jsonl holds fewer than two questions"):
        run(world)


def test_a_probe_is_found_from_the_recipe_that_names_it(tmp_path: Path) -> None:
    world = sft_full(tmp_path / "base")
    world.recipe["guards"] = {"knowledge_forgotten": {"probe": "own.jsonl"}}
    write_probe(world, 4)
    (tmp_path / "mine.yaml").write_text("extends: base/recipe.yaml\n")
    settings = load_recipe(tmp_path / "mine.yaml").recipe.guards.knowledge_forgotten
    assert settings.probe == "base/own.jsonl"


# What is fed


def spoil(monkeypatch: pytest.MonkeyPatch, trainer: type, change: Callable[[Batch], None], step: int) -> None:
    """A data collator that begins to change batches in training, behind a step."""
    train = trainer.train  # type: ignore[attr-defined]

    def train_spoilt(self: Any, *args: Any, **kwargs: Any) -> Any:
        collate = self.data_collator

        def collate_spoilt(rows: Any) -> Batch:
            batch: Batch = collate(rows)
            if self.state.global_step >= step:
                change(batch)
            return batch

        self.data_collator = collate_spoilt
        return train(self, *args, **kwargs)

    monkeypatch.setattr(trainer, "train", train_spoilt)


def mask_a_row(batch: Batch) -> None:
    batch["labels"][0] = -100


def mask_halves(batch: Batch) -> None:
    halves = batch["labels"][:, ::2]
    halves[halves != STOP] = -100


def exchange_stops(batch: Batch) -> None:
    for name in ("input_ids", "labels"):
        batch[name][batch[name] == STOP] = 7


def mask_a_side(batch: Batch) -> None:
    batch["completion_mask"][0] = 0


def cut_rows(batch: Batch) -> None:
    batch["attention_mask"][:, 5:] = 0


@pytest.mark.parametrize(
    ("make", "trainer", "change", "told"),
    [
        (sft_full, SFTTrainer, mask_a_row, "1 train no token"),
        (sft_full, SFTTrainer, mask_halves, "tokens are trained"),
        (sft_full, SFTTrainer, exchange_stops, "0 answers end with a stop token"),
        (sft_packed, SFTTrainer, mask_halves, "tokens are trained"),
        (dpo_full, DPOTrainer, mask_a_side, "1 train no token"),
        (reward_full, RewardTrainer, cut_rows, "tokens are fed"),
    ],
)
def test_batches_that_change_while_training_stop_the_run(
    make: Callable[[Path], World],
    trainer: type,
    change: Callable[[Batch], None],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = make(tmp_path)
    spoil(monkeypatch, trainer, change, step=1)
    with pytest.raises(RunError, match=r"GUARD006 stopped the run at step [23]"):  # one batch is made ahead
        run(world)
    (event,) = events(world)
    assert told in event["message"]
    if change in (mask_a_row, mask_a_side):
        assert [one.rpartition(" ")[0] for one in event["evidence"]] == ["train.jsonl row"]


def test_a_tolerance_lets_rows_be_changed_on_purpose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, SFTTrainer, mask_halves, step=1)
    for tolerance, action, told in ((0.9, "stop", 0), (0.02, "warn", 1)):
        world = sft_full(tmp_path / action)
        world.recipe["guards"] = {"batches_unlike_data": {"tolerance": tolerance, "action": action}}
        assert run(world) == 0
        assert [one["guard"] for one in events(world)] == ["GUARD006"] * told


@pytest.mark.parametrize("strategy", ["bfd", "bfd_split", "wrapped"])
def test_packing_and_padding_are_no_change(strategy: str, tmp_path: Path) -> None:
    world = sft_packed(tmp_path)
    world.recipe["training"] |= {"packing_strategy": strategy, "max_length": 32, "pad_to_multiple_of": 8}
    world.rows += [{"text": "a"}, {"text": "Every room has a lamp, and " * 20}]
    assert run(world) == 0
    assert not events(world)


def test_rows_are_counted_alike_in_the_data_and_in_batches() -> None:
    ids = np.arange(10, 30, dtype=np.int32)
    labels = np.where(np.isin(ids, (12, 13, 15, 16, 17, 20, 21, 26)), ids, -100).astype(np.int32)
    starts, stops = np.array([0, 4, 5, 12, 20]), frozenset({13, 21, 26})
    data = spread_rows([(ids, labels, starts)], stops, shortest=1)
    spreads = (data.taught, data.trained, data.ended, data.tokens)
    assert [one and one.most(4) for one in spreads] == [3, 7, 3, 20]
    rows = list(pairwise(starts))
    padded = torch.zeros(4, 10, dtype=torch.long), torch.full((4, 10), -100), torch.zeros(4, 10)
    for row, (start, end) in enumerate(rows):
        for part, values in zip(padded, (ids, labels, np.ones_like(ids)), strict=True):
            part[row, : end - start] = torch.from_numpy(values[start:end])
    batch = dict(zip(("input_ids", "labels", "attention_mask"), padded, strict=True))
    asked = torch.tensor(sorted(stops))
    assert Fed(*count_batch(find_segments(batch), asked).tolist()) == Fed(
        rows=4, taught=3, trained=7, ended=3, tokens=20
    )
    positions = np.concatenate([np.arange(end - start) for start, end in rows])
    flat = (np.concatenate((one, [rest] * 3)) for one, rest in ((ids, 0), (labels, -100), (positions, 0)))
    names = ("input_ids", "labels", "position_ids")
    packed = {name: torch.from_numpy(one)[None] for name, one in zip(names, flat, strict=True)}
    # The row of one token looks like the padding behind the last row: neither is counted.
    assert Fed(*count_batch(find_segments(packed), asked).tolist()) == Fed(
        rows=3, taught=3, trained=7, ended=3, tokens=19
    )


def test_what_any_rows_have_together() -> None:
    counts = np.array([5, 1, 3, 3, 8])
    spread, ordered = Spread(counts), sorted(counts.tolist())
    for rows in range(6):
        assert spread.least(rows) == sum(ordered[:rows])
        assert spread.most(rows) == sum(ordered[5 - rows :])
    assert (spread.least(7), spread.most(7)) == (20 + 1 + 3, 20 + 8 + 5)


# What stands still


def hang(monkeypatch: pytest.MonkeyPatch, seconds: float, step: int, heard: list[bool]) -> None:
    """A data loader that waits for something, once, behind a step; before that, whether a thread listens."""
    waited: list[bool] = []

    def wait(batch: Batch) -> None:
        heard.append(any(one.name == "ftrun-stalls" for one in threading.enumerate()))
        if not waited:
            waited.append(True)
            time.sleep(seconds)

    spoil(monkeypatch, SFTTrainer, wait, step)


def test_a_run_that_stalls_is_stopped_and_tells_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = sft_full(tmp_path)
    heard: list[bool] = []
    hang(monkeypatch, 600, step=3, heard=heard)
    world.recipe["guards"] = {"run_stalls": {"minutes": 0.02, "action": "stop"}}
    with pytest.raises(RunError, match=r"GUARD010 stopped the run at step \d+: Nothing was heard"):
        run(world)
    (told,) = events(world)
    assert any("collate_spoilt" in frame for frame in told["evidence"])
    assert "in wait\n" in (folder(world) / "stalled.txt").read_text()
    assert heard == [True] and all(one.name != "ftrun-stalls" for one in threading.enumerate())
    assert tags(world)["ftrun.guards"].startswith("1 events, the last GUARD010")


@pytest.mark.parametrize(("action", "told"), [("warn", ["GUARD010"]), (False, [])])
def test_a_run_that_recovers_goes_on(
    action: str | bool, told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = sft_full(tmp_path)
    heard: list[bool] = []
    hang(monkeypatch, 12, step=3, heard=heard)
    world.recipe["guards"] = {"run_stalls": {"minutes": 0.02, "action": action}}
    assert run(world) == 0
    assert [one["guard"] for one in events(world)] == told
    assert set(heard) == {bool(action)} and (folder(world) / "stalled.txt").exists() == bool(action)


UNINTERRUPTED = """
import signal, sys, time
from pathlib import Path
from trl import SFTTrainer
from ftrun.runner.guarding import stalls
from ftrun.runner.libraries import settle_libraries
from ftrun.runner.printing.text import make_console
from ftrun.runner.run import run_recipe
settle_libraries()
stalls.GRACE = 1.0
step = SFTTrainer.training_step
def hang(self, *args):
    if self.state.global_step == 3:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        time.sleep(600)
    return step(self, *args)
SFTTrainer.training_step = hang
console = make_console()
run_recipe(Path(sys.argv[1]), sets=(), ignore={}, out=console, err=console)
"""


def test_a_process_that_cannot_be_interrupted_is_ended(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    world.recipe["preflight"] = {"experiments": False}
    world.recipe["guards"] = {"run_stalls": {"minutes": 0.02, "action": "stop"}}
    done = subprocess.run(
        [sys.executable, "-c", UNINTERRUPTED, str(world.write())], capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert "could not be interrupted" in events(world)[0]["done"]
    assert json.loads((folder(world) / "tracking.json").read_text())["status"] == "FAILED"
