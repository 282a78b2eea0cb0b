"""Checkpoints: whole or passed over, of this recipe and these rows; and a run that is killed loses nothing."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ftrun.checks.testing import World, dpo_full, ppo_full, reward_full, sft_full, sft_lora
from ftrun.runner.checkpoints import MANIFEST_FILE, find_good_checkpoint, list_checkpoints, read_manifest
from ftrun.runner.printing.text import make_console
from ftrun.runner.run import run_recipe
from ftrun.runner.weights import digest_model
from ftrun.schemas.errors import RunError

SECONDS = 240


def run(world: World, resume: bool = False) -> int:
    console = make_console()
    return run_recipe(world.write(), sets=(), ignore={}, out=console, err=console, resume=resume)


def home(world: World) -> Path:
    return world.folder / "runs" / "healthy-1"


def save_every(world: World, steps: int, of: int) -> World:
    world.recipe["training"] |= {"max_steps": of, "save_strategy": "steps", "save_steps": steps}
    world.recipe["training"] |= {"logging_steps": 1, "save_total_limit": None}
    return world


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A run with checkpoints of the steps 1 and 2."""
    world = save_every(sft_full(tmp_path_factory.mktemp("finished")), 1, of=2)
    assert run(world) == 0
    return world


def flip_a_bit(checkpoint: Path) -> str:
    file = checkpoint / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    return "model.safetensors is not what was written"


def lose_the_optimizer(checkpoint: Path) -> str:
    (checkpoint / "optimizer.pt").unlink()
    return "optimizer.pt is missing"


def cut_the_random_states(checkpoint: Path) -> str:
    file = checkpoint / "rng_state.pth"
    file.write_bytes(file.read_bytes()[:100])
    return "rng_state.pth is not what was written"


def spoil_the_manifest(checkpoint: Path) -> str:
    (checkpoint / MANIFEST_FILE).write_text('{"files": 3}')
    return "its manifest cannot be read"


@pytest.mark.parametrize(
    "damage", [flip_a_bit, lose_the_optimizer, cut_the_random_states, spoil_the_manifest]
)
def test_a_damaged_checkpoint_is_passed_over_by_name(
    damage: Callable[[Path], str], finished: World, tmp_path: Path
) -> None:
    folder = tmp_path / "healthy-1"
    shutil.copytree(home(finished), folder)
    told: list[str] = []
    why = damage(folder / "checkpoints" / "checkpoint-2")
    recipe = (folder / "recipe.sha256").read_text().strip()
    assert find_good_checkpoint(folder, recipe, told.append).name == "checkpoint-1"
    assert told == [f"checkpoint-2 is passed over: {why}"]


def test_a_checkpoint_that_was_not_finished_does_not_count(finished: World, tmp_path: Path) -> None:
    folder = tmp_path / "healthy-1"
    shutil.copytree(home(finished), folder)
    (folder / "checkpoints" / "checkpoint-2" / MANIFEST_FILE).unlink()
    assert list(list_checkpoints(folder)) == [1]


def test_a_foreign_checkpoint_is_refused(finished: World) -> None:
    with pytest.raises(RunError, match="checkpoint-2 was written by another recipe"):
        find_good_checkpoint(home(finished), "0" * 64, print)


def test_checkpoints_without_an_optimizer_are_not_resumed_from(tmp_path: Path) -> None:
    world = save_every(sft_full(tmp_path), 1, of=2)
    world.recipe["training"]["save_only_model"] = True
    assert run(world) == 0
    with pytest.raises(RunError, match="holds no checkpoint to resume from, with optimizer"):
        run(world, resume=True)


def test_rows_that_changed_are_not_gone_on_with(tmp_path: Path) -> None:
    world = save_every(sft_full(tmp_path), 1, of=2)
    assert run(world) == 0
    world.rows[5]["completion"] = "Another answer."
    with pytest.raises(RunError, match="the rows are not those that healthy-1 was training on"):
        run(world, resume=True)


def test_a_resumed_run_takes_the_last_good_one_and_ends_the_same(tmp_path: Path) -> None:
    world = save_every(sft_lora(tmp_path), 2, of=6)
    assert run(world) == 0
    model = digest_model(home(world) / "model")
    lose_the_optimizer(home(world) / "checkpoints" / "checkpoint-6")
    # A file of a save that broke off is no part of the next.
    stale = home(world) / "checkpoints" / "checkpoint-6" / "stale.safetensors"
    stale.write_bytes(b"half")
    assert run(world, resume=True) == 0
    assert digest_model(home(world) / "model") == model
    assert not stale.exists()


@pytest.mark.parametrize(
    ("limit", "best", "kept"), [(2, False, [5, 6]), (1, False, [6]), (2, True, [1, 6]), (1, True, [1])]
)
def test_as_many_are_kept_as_the_recipe_says(limit: int, best: bool, kept: list[int], tmp_path: Path) -> None:
    world = save_every(sft_full(tmp_path), 1, of=6)
    world.recipe["training"]["save_total_limit"] = limit
    if best:
        # At this rate each evaluation is worse than the one before, so the first one stays the best.
        world.recipe["training"] |= {"load_best_model_at_end": True, "learning_rate": 0.3, "warmup_steps": 0}
        world.recipe["training"] |= {"eval_strategy": "steps", "eval_steps": 1}
        world.recipe["data"]["eval"] = {"fraction": 0.25}
        world.recipe["guards"] = {"loss_runs_away": {"action": False}, "overfitting": {"action": False}}
        world.recipe["preflight"] = {"ignore": {"TRAIN001": "made to be worse with every step"}}
    assert run(world) == 0
    found = list_checkpoints(home(world))
    assert sorted(found) == kept
    for checkpoint in found.values():
        manifest = read_manifest(checkpoint)
        assert manifest is not None and "trainer_state.json" in manifest.files


def kill(world: World, moment: Callable[[Path], bool], *words: str) -> None:
    """Run in a process of its own, and end it with SIGKILL at a moment."""
    command = [sys.executable, "-m", "ftrun", str(world.write()), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        deadline = time.monotonic() + SECONDS
        while not moment(home(world)) and process.poll() is None:
            assert time.monotonic() < deadline, "the moment did not come"
        process.send_signal(signal.SIGKILL)
        output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, output


def while_saving(folder: Path) -> bool:
    """The second checkpoint is being written."""
    second = folder / "checkpoints" / "checkpoint-4"
    return second.exists() and not (second / MANIFEST_FILE).exists()


def between_checkpoints(folder: Path) -> bool:
    """The fifth step has been logged, and the third checkpoint has not been begun."""
    journal = folder / "metrics.jsonl"
    return journal.exists() and b'"step": 5' in journal.read_bytes()


@pytest.mark.parametrize(
    ("make", "moment"),
    [
        (sft_full, while_saving),
        pytest.param(reward_full, between_checkpoints, marks=pytest.mark.slow),
        pytest.param(dpo_full, while_saving, marks=pytest.mark.slow),
        (ppo_full, between_checkpoints),
    ],
)
def test_a_run_that_is_killed_and_resumed_ends_as_if_it_never_was(
    make: Callable[[Path], World], moment: Callable[[Path], bool], tmp_path: Path
) -> None:
    whole, killed = (save_every(make(tmp_path / name), 2, of=8) for name in ("whole", "killed"))
    assert run(whole) == 0
    kill(killed, moment)
    assert not (home(killed) / "model").exists()
    assert run(killed, resume=True) == 0
    assert digest_model(home(killed) / "model") == digest_model(home(whole) / "model")
    assert not (killed.folder / "runs" / "healthy-2").exists()
