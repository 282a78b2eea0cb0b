"""Guards and recovery in two processes: one decision for both, whichever of them something happens in."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ftrun.checks.stages import AtModel
from ftrun.checks.testing import World, dpo_full, ppo_full, sft_full, sft_lora
from ftrun.runner import checkpoints, ranks
from ftrun.runner.guarding.events import Events
from ftrun.runner.guarding.recovery import Recovery
from ftrun.runner.preflight import ascend_file
from ftrun.runner.printing.text import make_console
from ftrun.runner.run import run_recipe
from ftrun.runner.tracking.run import SilentRun
from ftrun.schemas.errors import RunError
from ftrun.schemas.load import load_recipe

Plant = Callable[[AtModel], None]

SCRIPT = """
import importlib.util, sys
from pathlib import Path

spec = importlib.util.spec_from_file_location("guards_ranks", sys.argv[1])
tests = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = tests
spec.loader.exec_module(tests)
tests.run_stories(Path(sys.argv[2]))
"""


def in_second(step: int, change: Callable[[Any, torch.Tensor], torch.Tensor], times: int = 1) -> Plant:
    """Change the loss of a step in the second process, so often."""
    left = [times]

    def plant(at: AtModel) -> None:
        trainer, made = at.trainer, at.trainer.training_step

        def make(*args: Any, **kwargs: Any) -> torch.Tensor:
            loss: torch.Tensor = made(*args, **kwargs)
            if ranks.read_rank() == 1 and trainer.state.global_step + 1 == step and left[0]:
                left[0] -= 1
                loss = change(trainer, loss)
            return loss

        trainer.training_step = make

    return plant


def spoil(trainer: Any, loss: torch.Tensor) -> torch.Tensor:
    return loss * torch.nan


def move_frozen(trainer: Any, loss: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        next(p for p in trainer.model.parameters() if not p.requires_grad).add_(1.0)
    return loss


def mask_rows(at: AtModel) -> None:
    """From step 3 the second process trains nothing of one of its rows."""
    collect = at.trainer.get_batch_samples

    def masked(*args: Any, **kwargs: Any) -> Any:
        batches, items = collect(*args, **kwargs)
        if ranks.read_rank() == 1 and at.trainer.state.global_step == 2:
            batches[0]["labels"][0] = -100
        return batches, items

    at.trainer.get_batch_samples = masked


def nothing(at: AtModel) -> None:
    pass


def with_training(make: Callable[[Path], World], **settings: Any) -> Callable[[Path], World]:
    def build(folder: Path) -> World:
        world = make(folder)
        world.recipe["training"] |= {"max_steps": 6, "save_strategy": "steps", "save_steps": 2} | settings
        return world

    return build


def poisoned(folder: Path) -> World:
    spec = importlib.util.spec_from_file_location("guards", Path(__file__).with_name("test_guards.py"))
    assert spec is not None and spec.loader is not None
    tests: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tests)
    world = with_training(sft_full, save_steps=1)(folder)
    tests.poison(world)
    return world


def unlearnable(folder: Path) -> World:
    world = with_training(sft_full, max_steps=36, save_steps=36, learning_rate=1e-13)(folder)
    world.recipe["guards"] = {"loss_does_not_fall": {"steps": 20}, "knowledge_forgotten": {"every": 9}}
    return world


STORIES: dict[str, tuple[Callable[[Path], World], Callable[[], Plant]]] = {
    "clean": (with_training(sft_full), lambda: nothing),
    "once": (with_training(sft_full), lambda: in_second(4, spoil)),
    "always": (with_training(sft_full), lambda: in_second(4, spoil, times=3)),
    "dpo clean": (with_training(dpo_full), lambda: nothing),
    "dpo once": (with_training(dpo_full), lambda: in_second(4, spoil)),
    "ppo clean": (with_training(ppo_full), lambda: nothing),
    "ppo once": (with_training(ppo_full), lambda: in_second(4, spoil)),
    "row": (poisoned, lambda: nothing),
    "fed": (with_training(sft_full), lambda: mask_rows),
    "frozen": (with_training(sft_lora, max_steps=12, save_steps=12), lambda: in_second(4, move_frozen)),
    "plateau": (unlearnable, lambda: nothing),
}


def run_stories(folder: Path) -> None:
    """Run all of them as one of the processes, and write what each process knows in the end."""
    ranks.join(on_cpu=True)
    for name, (make, plant) in STORIES.items():
        everywhere = ranks.gather(run_story(folder / name, make, plant()))
        if ranks.is_main():
            (folder / name / "told.json").write_text(json.dumps(everywhere))
    ranks.leave()


def run_story(folder: Path, make: Callable[[Path], World], plant: Plant) -> dict[str, Any]:
    path = ranks.share(lambda: make(folder).write())
    run = folder / "run"
    ranks.share(lambda: run.mkdir())
    ascent = ascend_file(load_recipe(path), checks=(), folder=lambda _: run, needed=AtModel)
    at = ascent.at
    assert isinstance(at, AtModel)
    made: list[AtModel] = []

    def prepare(at: AtModel) -> None:
        made.append(at)
        at.trainer.add_callback(checkpoints.make_callback(at.trainer, checkpoints.Origin("", "", False)))
        plant(at)

    console = make_console()
    console.quiet = True
    stopped = ""
    try:
        Recovery(at, run, Events(SilentRun(), run, console), prepare).train(None)
    except RunError as error:
        stopped = str(error)
    end = made[-1]
    weights = {name: p.detach().double().sum().item() for name, p in end.model.named_parameters()}
    if ranks.is_main() and not stopped:
        torch.save(end.model.state_dict(), folder / "weights.pt")
    return {
        "stopped": stopped,
        "made": len(made),
        "step": end.trainer.state.global_step,
        "weights": weights,
        "batch": end.trainer.args.per_device_train_batch_size,
        "accumulation": end.trainer.args.gradient_accumulation_steps,
    }


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which all stories were run, in two processes."""
    folder = tmp_path_factory.mktemp("stories")
    script = folder / "run.py"
    script.write_text(SCRIPT, encoding="utf-8")
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*start, str(script), __file__, str(folder)], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return folder


def told(stories: Path, name: str) -> list[dict[str, Any]]:
    """What both processes know, which is the same."""
    everywhere: list[dict[str, Any]] = json.loads((stories / name / "told.json").read_text())
    if name != "frozen":
        assert everywhere[0] == everywhere[1]
    return everywhere


def events(stories: Path, name: str) -> list[dict[str, Any]]:
    file = stories / name / "run" / "events.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def weights(stories: Path, name: str) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(stories / name / "weights.pt", weights_only=True)
    return found


@pytest.mark.parametrize("method", ["", "dpo ", "ppo "])
def test_both_go_back_and_end_as_if_nothing_had_happened(stories: Path, method: str) -> None:
    (event,) = events(stories, f"{method}once")
    assert event["guard"] == "GUARD001" and event["step"] == 4
    assert event["done"] == "went back to step 2, and goes on as before"
    assert told(stories, f"{method}once")[0]["made"] == 2
    clean, end = (weights(stories, f"{method}{name}") for name in ("clean", "once"))
    assert all(torch.equal(end[name], weight) for name, weight in clean.items())


def test_both_leave_out_the_same_step(stories: Path) -> None:
    assert [event["done"] for event in events(stories, "always")] == [
        "went back to step 2, and goes on as before",
        "went back to step 2, and leaves out step 4",
    ]
    remedy = json.loads((stories / "always" / "run" / "remedy.json").read_text())
    assert remedy["skipped"] == [4] and told(stories, "always")[0]["step"] == 6


def test_a_row_of_either_process_is_named_and_left_out(stories: Path) -> None:
    (event,) = events(stories, "row")
    assert event["evidence"] == ["train.jsonl row 11"] and f"leaves out step {event['step']}" in event["done"]
    assert told(stories, "row")[0]["step"] == 6


def test_what_the_second_process_is_fed_stops_both_and_names_its_row(stories: Path) -> None:
    (event,) = events(stories, "fed")
    assert (
        event["guard"] == "GUARD006" and "In the 8 rows of one update, 1 train no token" in event["message"]
    )
    assert len(event["evidence"]) == 1
    assert told(stories, "fed")[0]["stopped"].startswith("GUARD006 stopped the run at step 3")


def test_a_weight_that_moves_in_the_second_process_stops_both(stories: Path) -> None:
    first, second = told(stories, "frozen")
    assert first["stopped"] == second["stopped"] and "GUARD016" in first["stopped"] and first["step"] == 10


def test_a_cause_is_tried_by_one_process_and_leaves_no_trace(stories: Path) -> None:
    (event,) = (event for event in events(stories, "plateau") if event["guard"] == "GUARD017")
    assert "updates are too small to change anything" in event["message"]
    assert told(stories, "plateau")[0]["step"] == 36 and (stories / "plateau" / "run" / "probe.json").exists()


PLANTED = """
import os, sys, time
from pathlib import Path
import torch
from trl import SFTTrainer
from ftrun.runner.guarding import stalls
from ftrun.runner.libraries import settle_libraries
from ftrun.runner.printing.text import make_console
from ftrun.runner.run import run_recipe
from ftrun.runner.run import run_recipe
from ftrun.schemas.errors import RunError

settle_libraries()
stalls.GRACE = 1.0
step = SFTTrainer.training_step

def fail(self, *args):
    if self.state.global_step == 3 and os.environ["RANK"] == "1":
        if sys.argv[2] == "hang":
            time.sleep(600)
        raise torch.OutOfMemoryError("planted")
    return step(self, *args)

SFTTrainer.training_step = fail
console = make_console()
try:
    run_recipe(Path(sys.argv[1]), sets=(), ignore={}, out=console, err=console)
except RunError as error:
    print(error)
    sys.exit(1)
"""


def run_planted(world: World, what: str) -> str:
    """What a run in two processes prints that has to fail."""
    script = world.folder.parent / "planted.py"
    script.write_text(PLANTED, encoding="utf-8")
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    world.recipe["preflight"] = {"experiments": False}
    done = subprocess.run(
        [*start, str(script), str(world.write()), what],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 1, done.stdout + done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_memory_of_one_process_halves_the_micro_batches_of_all_that_go_on(
    stories: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = with_training(sft_full)(tmp_path / "world")
    said = run_planted(world, "memory")
    run = world.folder / "runs" / "healthy-1"
    (event,) = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert event["guard"] == "GUARD009" and "--resume goes on" in event["done"]
    assert "per_device_train_batch_size: 2, gradient_accumulation_steps: 2" in event["done"]
    assert "process 1 stopped at step 3 with MemoryError: Memory ran out behind step 3" in said
    console = make_console()
    assert run_recipe(world.write(), sets=(), ignore={}, out=console, err=console, resume=True) == 0
    end, clean = load_file(run / "model" / "model.safetensors"), weights(stories, "clean")
    for name, weight in end.items():
        torch.testing.assert_close(weight, clean[name], rtol=1e-4, atol=1e-6)
    assert "micro-batches have 2 rows" in capsys.readouterr().out


@pytest.mark.slow
def test_a_process_that_stands_still_is_named_and_ends_all(tmp_path: Path) -> None:
    world = with_training(sft_full)(tmp_path / "world")
    world.recipe["guards"] = {"run_stalls": {"minutes": 0.03, "action": "stop"}}
    run_planted(world, "hang")
    run = world.folder / "runs" / "healthy-1"
    found = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert {event["guard"] for event in found} == {"GUARD010"}
    assert found[0]["evidence"][-1].startswith("process 1: ") and "planted.py" in found[0]["evidence"][-1]
    assert "in fail\n" in (run / "stalled-1.txt").read_text()
    assert json.loads((run / "tracking.json").read_text())["status"] == "FAILED"
