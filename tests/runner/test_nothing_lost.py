"""What happens to runs and their folders from outside: clocks, disks, strangers' files, kills behind a rollback."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ftrun.checks.catalogue import load_checks
from ftrun.checks.testing import World, dpo_full, ppo_full, reward_full, sft_full
from ftrun.runner.adapters import find_base
from ftrun.runner.checkpoints import MANIFEST_FILE, Origin, commit, find_good_checkpoint, list_checkpoints
from ftrun.runner.printing.text import make_console
from ftrun.runner.run import run_recipe
from ftrun.runner.tracking.ledger import read_ledger
from ftrun.runner.tracking.run import TrackedRun
from ftrun.runner.weights import digest_file, digest_model
from ftrun.schemas.errors import ModelError, RunError

SECONDS = 240
SLOW = pytest.mark.slow
OWN = Origin("ab" * 32, "cd" * 32, only_model=False)


def run(world: World, resume: bool = False, ignore: tuple[str, ...] = ()) -> int:
    console = make_console()
    given = dict.fromkeys(ignore, "made to fail")
    return run_recipe(world.write(), sets=(), ignore=given, out=console, err=console, resume=resume)


def home(world: World) -> Path:
    return world.folder / "runs" / "healthy-1"


def save_every(world: World, steps: int, of: int) -> World:
    world.recipe["training"] |= {"max_steps": of, "save_strategy": "steps", "save_steps": steps}
    world.recipe["training"] |= {"logging_steps": 1, "save_total_limit": None}
    return world


# --- checkpoints that somebody else has written to --------------------------------------------------


def rewrite_manifest(checkpoint: Path, change: Callable[[dict[str, str]], None]) -> None:
    manifest = json.loads((checkpoint / MANIFEST_FILE).read_text())
    change(manifest["files"])
    (checkpoint / MANIFEST_FILE).write_text(json.dumps(manifest))


def put_a_link(checkpoint: Path, outside: Path) -> str:
    (checkpoint / "optimizer.pt").unlink()
    (checkpoint / "optimizer.pt").symlink_to(outside)
    rewrite_manifest(checkpoint, lambda files: files.update({"optimizer.pt": digest_file(outside)}))
    return "optimizer.pt is a link, and no file"


def link_a_folder(checkpoint: Path, outside: Path) -> str:
    shutil.rmtree(checkpoint / "value")
    (checkpoint / "value").symlink_to(outside.parent)
    return "value/model.safetensors is missing"


def lead_out(checkpoint: Path, outside: Path) -> str:
    name = os.path.relpath(outside, checkpoint)
    rewrite_manifest(checkpoint, lambda files: files.update({name: digest_file(outside)}))
    return f"{name} is missing"


def add_a_file(checkpoint: Path, outside: Path) -> str:
    shutil.copy(outside, checkpoint / "pytorch_model.bin")
    return "pytorch_model.bin is none of its files"


def put_a_pipe(checkpoint: Path, outside: Path) -> str:
    (checkpoint / "optimizer.pt").unlink()
    os.mkfifo(checkpoint / "optimizer.pt")
    return "optimizer.pt is a link, and no file"


@pytest.mark.parametrize("attack", [put_a_link, link_a_folder, lead_out, add_a_file, put_a_pipe])
def test_a_checkpoint_reads_its_own_files_alone(attack: Callable[[Path, Path], str], tmp_path: Path) -> None:
    checkpoints = tmp_path / "healthy-1" / "checkpoints"
    for step in (1, 2):
        (checkpoints / f"checkpoint-{step}" / "value").mkdir(parents=True)
        for name in ("model.safetensors", "optimizer.pt", "value/model.safetensors"):
            (checkpoints / f"checkpoint-{step}" / name).write_bytes(bytes([step]) * 10)
        commit(checkpoints / f"checkpoint-{step}", OWN)
    # What a desktop leaves is no attack.
    (checkpoints / "checkpoint-1" / ".DS_Store").write_bytes(b"")
    outside = tmp_path / "other" / "model.safetensors"
    outside.parent.mkdir()
    outside.write_bytes(b"of somebody else")
    told: list[str] = []
    why = attack(checkpoints / "checkpoint-2", outside)
    assert find_good_checkpoint(tmp_path / "healthy-1", OWN.recipe, told.append).name == "checkpoint-1"
    assert told == [f"checkpoint-2 is passed over: {why}"]


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.mark,)


def test_pickles_are_not_run_and_a_linked_checkpoint_is_no_way_out(tmp_path: Path) -> None:
    world, mark = save_every(sft_full(tmp_path / "world"), 1, of=2), tmp_path / "it-ran"
    assert run(world) == 0
    model = digest_model(home(world) / "model")
    first = home(world) / "checkpoints" / "checkpoint-1"
    shutil.copytree(first, tmp_path / "kept")
    for name in ("optimizer.pt", "rng_state.pth", "scheduler.pt", "training_args.bin"):
        (first / name).write_bytes(pickle.dumps(Payload(mark), protocol=2))
    commit(first, Origin(**json.loads((first / MANIFEST_FILE).read_text())["origin"]))
    # The later one is a link to a folder elsewhere, and not whole.
    second = first.with_name("checkpoint-2")
    elsewhere = second.rename(tmp_path / "elsewhere")
    (elsewhere / "optimizer.pt").unlink()
    second.symlink_to(elsewhere)
    with pytest.raises(RunError, match="training stopped with UnpicklingError"):
        run(world, resume=True)
    assert not mark.exists()
    assert (elsewhere / "model.safetensors").is_file(), "what a link leads to is not removed"
    shutil.rmtree(first)
    shutil.copytree(tmp_path / "kept", first)
    assert run(world, resume=True) == 0
    assert digest_model(home(world) / "model") == model


# --- disks, folders, clocks --------------------------------------------------------------------------


def test_an_output_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    (tmp_path / "taken").write_text("a file")
    world.recipe["output"] = str(tmp_path / "taken" / "runs")
    with pytest.raises(RunError, match="taken is a file"):
        run(world)


def test_a_run_goes_on_where_its_folder_was_moved_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best checkpoint is noted by a path of the machine that it was written on."""
    first = tmp_path / "first"
    world = save_every(sft_full(first), 1, of=3)
    # At this rate each evaluation is worse than the one before, so the first one stays the best.
    world.recipe["training"] |= {"load_best_model_at_end": True, "learning_rate": 0.3, "warmup_steps": 0}
    world.recipe["training"] |= {"eval_strategy": "steps", "eval_steps": 1}
    world.recipe |= {"output": "runs", "data": world.recipe["data"] | {"eval": {"fraction": 0.25}}}
    world.recipe["guards"] = {"loss_runs_away": {"action": False}, "overfitting": {"action": False}}
    first.mkdir()
    monkeypatch.chdir(first)
    assert run(world, ignore=("TRAIN001",)) == 0
    model = digest_model(home(world) / "model")
    world.folder = first.rename(tmp_path / "second")
    monkeypatch.chdir(world.folder)
    shutil.rmtree(home(world) / "checkpoints" / "checkpoint-3")
    assert run(world, resume=True, ignore=("TRAIN001",)) == 0
    assert digest_model(home(world) / "model") == model


def test_a_clock_that_is_set_back_makes_no_run_end_before_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with TrackedRun.start(
        uri, "clocks", "run", tmp_path / "run", params={}, tags={}, sample_seconds=None
    ) as one:
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now - 3600)
        monkeypatch.setattr(time, "time_ns", lambda: int((now - 3600) * 1e9))
        one.log(1, {"loss": 1.0})
        one.finish("FINISHED")
    ledger = read_ledger(tmp_path / "run")
    assert ledger is not None and ledger.end_time is not None
    assert ledger.end_time >= ledger.start_time


def test_an_adapter_whose_base_is_gone_says_which(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/models/gone"}))
    with pytest.raises(
        ModelError, match="is an adapter of the model in /models/gone, and there is no such folder"
    ):
        find_base(str(tmp_path))


# --- a kill behind a rollback ------------------------------------------------------------------------


def after_the_first_rollback(folder: Path) -> bool:
    """A guard has gone back once, and what it does about it may still change."""
    events = folder / "events.jsonl"
    return events.exists() and events.stat().st_size > 0


def after_the_last_rollback(folder: Path) -> bool:
    """The rate is lower, and a checkpoint is being written, or was."""
    remedy, sixth = folder / "remedy.json", folder / "checkpoints" / "checkpoint-6"
    return remedy.exists() and '"learning_rate_factor": 1.0,' not in remedy.read_text() and sixth.exists()


def rolled_back(make: Callable[[Path], World], folder: Path) -> World:
    """A run whose rate is hopeless from the first step on, until guards have made it 1e24 times lower."""
    world = save_every(make(folder), 2, of=10)
    world.recipe["training"] |= {"learning_rate": 1e20, "warmup_steps": 0}
    world.recipe["guards"] = {"learning_rate_factor": 1e-24}
    world.recipe["preflight"] = {"ignore": {check.id: "made to fail" for check in load_checks()}}
    return world


def kill(world: World, moment: Callable[[Path], bool]) -> None:
    """Run in a process of its own, and end it with SIGKILL at a moment."""
    command = [sys.executable, "-m", "ftrun", str(world.write())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        deadline = time.monotonic() + SECONDS
        while not moment(home(world)) and process.poll() is None:
            assert time.monotonic() < deadline, "the moment did not come"
        process.send_signal(signal.SIGKILL)
        output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, output


@pytest.mark.parametrize(
    ("make", "moment"),
    [
        pytest.param(sft_full, after_the_first_rollback, marks=SLOW),
        pytest.param(sft_full, after_the_last_rollback, marks=SLOW),
        pytest.param(reward_full, after_the_first_rollback, marks=SLOW),
        pytest.param(reward_full, after_the_last_rollback, marks=SLOW),
        pytest.param(dpo_full, after_the_first_rollback, marks=SLOW),
        pytest.param(dpo_full, after_the_last_rollback, marks=SLOW),
        pytest.param(ppo_full, after_the_first_rollback, marks=SLOW),
        pytest.param(ppo_full, after_the_last_rollback, marks=SLOW),
    ],
)
def test_a_run_that_went_back_and_was_killed_ends_as_if_it_never_was(
    make: Callable[[Path], World], moment: Callable[[Path], bool], tmp_path: Path
) -> None:
    whole, killed = (rolled_back(make, tmp_path / name) for name in ("whole", "killed"))
    assert run(whole) == 0
    assert (home(whole) / "events.jsonl").exists()
    kill(killed, moment)
    assert not (home(killed) / "model").exists()
    if list_checkpoints(home(killed)):
        assert run(killed, resume=True) == 0
    else:  # it was killed before there was one: the run begins anew
        shutil.rmtree(killed.folder / "runs")
        assert run(killed) == 0
    assert digest_model(home(killed) / "model") == digest_model(home(whole) / "model")
