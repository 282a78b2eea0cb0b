"""What happened in a run: listed, told and compared, on runs of tiny worlds."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftrun.checks.catalogue import load_checks
from ftrun.checks.testing import World, sft_chat, sft_full
from ftrun.runner.pipeline import run_pipeline
from ftrun.runner.printing.text import make_console
from ftrun.runner.run import run_recipe
from ftrun.runner.story.advice import find_ways_on
from ftrun.runner.story.causes import find_causes
from ftrun.runner.story.comparison import compare_things, tell_difference
from ftrun.runner.story.difference import compare
from ftrun.runner.story.folder import read_folder
from ftrun.runner.story.history import History, read_series
from ftrun.runner.story.listing import list_runs, read_entries
from ftrun.runner.story.record_files import Event
from ftrun.runner.story.show import describe_history, tell_history
from ftrun.runner.story.sides import read_side
from ftrun.runner.story.source import find_history
from ftrun.runner.story.sparkline import draw_points, take_logs
from ftrun.runner.story.terminal import Screen
from ftrun.runner.tracking.journal import Entry
from ftrun.runner.tracking.pending import send_pending
from ftrun.schemas.errors import RunError, TrackingError

UNSAFE = {check.id: "made to fail" for check in load_checks()}
NARROW = Screen(80, True, True)
PATIENCE = 120.0  # seconds; a busy machine needs some to import torch


def run(world: World, name: str, runs: Path) -> int:
    world.recipe |= {"name": name, "output": str(runs), "tracking": {"experiment": "story"}}
    console = make_console()
    return run_recipe(world.write(), sets=(), ignore=UNSAFE, out=console, err=console)


def healthy(folder: Path) -> World:
    world = sft_full(folder)
    world.recipe["training"] |= {
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "learning_rate": 1e-3,
    }
    world.recipe["data"]["eval"] = {"fraction": 0.25}
    return world


def write_pipeline(folder: Path, runs: Path) -> Path:
    world = sft_full(folder)
    world.recipe["training"] |= {"max_steps": 3, "logging_steps": 1, "save_strategy": "no"}
    world.write()
    stages = {
        "first": {"recipe": "recipe.yaml"},
        "second": {"recipe": "recipe.yaml", "set": {"model.path": "stage:first"}},
    }
    path = folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump({"name": "twice", "output": str(runs), "stages": stages}, sort_keys=False))
    return path


ENDLESS = """
import sys, time
from pathlib import Path
from ftrun.runner.tracking.run import TrackedRun
uri, folder = sys.argv[1:]
tags = {"ftrun.kind": "run", "ftrun.method": "sft", "ftrun.folder": folder}
params = {"name": "dead", "training": {"max_steps": 100}}
run = TrackedRun.start(uri, "story", "dead-1", Path(folder), params, tags, sample_seconds=None)
for step in range(1, 6):
    run.log(step, {"train/loss": 1 / step})
time.sleep(1000)
"""


def begin_endless(folder: Path, uri: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start a run that does not end, in a process of its own, wait until the store has its steps, and return the
    process and the id of its courier's."""
    process = subprocess.Popen([sys.executable, "-c", ENDLESS, uri, str(folder)])
    end = time.monotonic() + PATIENCE
    while not has_metrics(folder / "delivered.json"):
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            process.wait()
            pytest.fail("the run did not begin")
        time.sleep(0.1)
    (courier,) = (
        int(one.name)
        for one in Path("/proc").iterdir()
        if one.name.isdecimal() and f"PPid:\t{process.pid}\n" in read_status(one)
    )
    return process, courier


def has_metrics(delivered: Path) -> bool:
    """Whether the store holds a part of the journal."""
    try:
        return bool(json.loads(delivered.read_text())["journals"].get("metrics.jsonl"))
    except (OSError, ValueError):
        return False


def read_status(process: Path) -> str:
    try:
        return (process / "status").read_text()
    except OSError:
        return ""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with runs that went well, badly, and were recovered."""
    home = tmp_path_factory.mktemp("story")
    runs = home / "runs"
    assert run(healthy(home / "healthy"), "healthy", runs) == 0
    faster = healthy(home / "faster")
    faster.recipe["training"]["learning_rate"] = 2e-3
    assert run(faster, "faster", runs) == 0

    hot: dict[str, Any] = {"learning_rate": 1e20, "warmup_steps": 0, "logging_steps": 1, "max_steps": 6}
    saved = sft_full(home / "saved")
    saved.recipe["training"] |= hot
    saved.recipe["guards"] = {"learning_rate_factor": 1e-24}
    assert run(saved, "saved", runs) == 0
    burnt = sft_full(home / "burnt")
    burnt.recipe["training"] |= hot | {"learning_rate": 1e25}
    burnt.recipe["guards"] = {"rollbacks": 1, "learning_rate_factor": 0.9}
    with pytest.raises(RunError):
        run(burnt, "burnt", runs)

    broken = sft_chat(home / "broken")
    broken.recipe["training"] |= {"load_best_model_at_end": True, "metric_for_best_model": "eval_nonsense"}
    with pytest.raises(RunError):
        run(broken, "broken", runs)

    console = make_console()
    path = write_pipeline(home / "pipeline", runs)
    assert (
        run_pipeline(path, sets=["tracking.experiment=story"], ignore=UNSAFE, out=console, err=console) == 0
    )
    for folder in [*runs.glob("*-1"), *runs.glob("twice-1/*")]:
        if (folder / "tracking.json").is_file():
            send_pending(folder)
    return runs


@contextmanager
def moved(folder: Path) -> Iterator[None]:
    """A run folder that is not on this machine."""
    away = folder.with_name("away")
    folder.rename(away)
    try:
        yield
    finally:
        away.rename(folder)


def store(runs: Path) -> str:
    return f"sqlite:///{runs / 'mlflow.db'}"


def text(history: History) -> str:
    return "\n".join(" " * line.indent + line.text.strip() for line in tell_history(history, NARROW))


def test_runs_are_listed_with_their_stages_the_newest_first(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries, more = read_entries(store(runs), "story", 3)
    assert more and [one.run.name for one in entries] == ["twice-1", "broken-1", "burnt-1"]
    assert [one.run.name for one in entries[0].below] == ["twice-1-first", "twice-1-second"]

    capsys.readouterr()
    assert list_runs(runs, None, None, True, "json") == 0
    listed = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert {name: one["state"] for name, one in listed.items()} == {
        "twice-1": "finished",
        "broken-1": "failed",
        "burnt-1": "failed",
        "saved-1": "finished",
        "faster-1": "finished",
        "healthy-1": "finished",
    }
    last = read_folder(runs / "healthy-1").series["train/loss"].last
    assert (listed["healthy-1"]["step"], listed["healthy-1"]["steps"]) == (12, 12)
    assert listed["healthy-1"]["loss"] == last[1]
    assert listed["healthy-1"]["held_out"].endswith(" loss")
    assert (listed["saved-1"]["guard_events"], listed["burnt-1"]["guard_events"]) == (3, 2)
    assert (listed["burnt-1"]["step"], listed["burnt-1"]["steps"]) == (1, 6)

    assert list_runs(runs, None, "story", False, "text") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["twice-1", "twice-1-first", "twice-1-second"]
    assert lines[1].startswith("twice-1") and lines[2].startswith("  twice-1-first")
    # Two stages are newer than the run that they belong to.
    (newest,), more = read_entries(store(runs), None, 1)
    assert more and newest.run.name == "twice-1" and len(newest.below) == 2
    with pytest.raises(TrackingError, match="no experiment nothing"):
        list_runs(runs, None, "nothing", False, "text")
    with pytest.raises(TrackingError, match="no store"):
        list_runs(runs / "nowhere", None, None, False, "text")


def test_a_run_is_told_with_its_curves_figures_and_what_to_do_next(runs: Path) -> None:
    history = read_folder(runs / "healthy-1")
    told = text(history)
    loss = history.series["train/loss"]
    row = next(line for line in told.splitlines() if line.strip().startswith("loss  "))
    numbers = [f"{loss.first[1]:.4g}", f"{loss.lowest[1]:.4g}" if loss.lowest else "", f"{loss.last[1]:.4g}"]
    assert [number for number in numbers if number in row.split()] == numbers
    assert "█" in row and "▁" in row
    for words in (
        "learning rate",
        "gradient norm",
        "Held-out rows",
        "Preflight",
    ):
        assert words in told
    assert "train.jsonl: 24 rows, training" in told and "train.jsonl: 8 rows, held out" in told
    assert "ftrun chat" in told and "ftrun export" in told and "Likely cause" not in told
    # Commands, paths and addresses are copied, and so never divided.
    long = [line for line in told.splitlines() if len(line) > NARROW.width]
    assert all("sqlite:///" in line or "ftrun " in line or "folder " in line for line in long)


def test_a_run_is_told_alike_from_mlflow_alone(runs: Path) -> None:
    for name in ("healthy-1", "burnt-1", "saved-1", "broken-1"):
        here = read_folder(runs / name)
        with moved(runs / name):
            away = find_history(name, store(runs), "show")
        assert away.run.folder is None and away.run.run_id == here.run.run_id
        assert away.run.state == here.run.state
        assert away.series == here.series and away.data == here.data
        assert (away.files.settings, away.files.events) == (here.files.settings, here.files.events)
        assert [one.name for one in find_causes(away)] == [one.name for one in find_causes(here)]
    with moved(runs / "twice-1"):
        away = find_history("twice", store(runs), "show")
    assert [one.name for one in away.children] == ["twice-1-first", "twice-1-second"]
    assert [one.name for one in read_folder(runs / "twice-1").children] == ["twice-1-first", "twice-1-second"]


def test_without_artifacts_metrics_and_parameters_tell_the_run(runs: Path) -> None:
    here = read_folder(runs / "healthy-1")
    (lost,) = (runs / "mlruns").glob(f"*/{here.run.run_id}")
    with moved(runs / "healthy-1"), moved(lost):
        away = find_history("healthy-1", store(runs), "show")
    assert away.series == here.series
    assert away.setting("training.learning_rate") == 1e-3
    assert "loss" in text(away)


def test_a_run_is_found_by_its_folder_name_recipe_and_id(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    id = read_folder(runs / "faster-1").run.run_id
    for reference in (str(runs / "faster-1"), "faster-1", "faster", "run:faster", id, id[:8]):
        assert find_history(reference, store(runs), "show").run.run_id == id
    monkeypatch.chdir(runs.parent)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert find_history("faster-1", None, "show").run.run_id == id
    for reference in ("nothing", "./faster", str(runs)):
        with pytest.raises(TrackingError):
            find_history(reference, store(runs), "show")


def test_what_a_guard_did_is_told_at_its_step(runs: Path) -> None:
    told = text(read_folder(runs / "saved-1"))
    assert "GUARD001" in told and "step 2" in told and "went back to step 0" in told
    assert "Likely cause" not in told


def test_a_run_that_failed_is_told_with_its_cause(runs: Path) -> None:
    (cause, *_) = find_causes(read_folder(runs / "burnt-1"))
    assert cause.name == "learning_rate"
    evidence = " ".join(cause.evidence)
    assert (
        "GUARD001: At step 2 the loss is nan" in evidence and "TRAIN001" in evidence and "1e+25" in evidence
    )
    (cause,) = find_causes(read_folder(runs / "broken-1"))
    assert cause.name == "ignored_finding" and "TRAIN036" in cause.evidence[0]
    assert "eval_nonsense" in cause.evidence[-1]
    assert describe_history(read_folder(runs / "broken-1"))["causes"][0]["name"] == "ignored_finding"


ERRORS = {
    "out_of_memory": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
    "disk_full": "OSError: [Errno 28] No space left on device",
    "nothing_trainable": "RuntimeError: element 0 of tensors does not require grad and does not have a grad_fn",
    "data_ended": "ValueError: num_samples should be a positive integer value, but got num_samples=0",
    "device_error": "torch.AcceleratorError: CUDA error: device-side assert triggered",
    "network": "requests.exceptions.ConnectionError: HTTPSConnectionPool(host='huggingface.co', port=443)",
    "unknown": "ZeroDivisionError: division by zero",
}


@pytest.mark.parametrize("name", ERRORS)
def test_a_traceback_tells_the_cause(name: str, runs: Path) -> None:
    error = f'Traceback (most recent call last):\n  File "/x/trainer.py", line 3, in step\n    x\n{ERRORS[name]}\n'
    history = read_folder(runs / "broken-1")
    history = replace(history, files=replace(history.files, error=error, preflight={}))
    (cause,) = find_causes(history)
    assert cause.name == name and ERRORS[name] in cause.evidence[0]


def test_a_reward_function_that_raised_is_named(runs: Path) -> None:
    error = 'Traceback:\n  File "/home/me/rewards.py", line 12, in score\n    x\nValueError: no service\n'
    history = read_folder(runs / "broken-1")
    settings = {"reward": {"functions": ["rewards.py:score"]}}
    files = replace(history.files, error=error, settings=settings)
    (cause,) = find_causes(replace(history, files=files))
    assert cause.name == "reward_function" and "/home/me/rewards.py:12, in score" in cause.evidence[1]


def failed(runs: Path, losses: list[float], norms: list[float], **files: Any) -> History:
    """A run that failed without an error, with these losses and norms."""
    history = read_folder(runs / "burnt-1")
    entries = tuple(
        Entry(step, step, {"train/loss": loss, "train/grad_norm": norm})
        for step, (loss, norm) in enumerate(zip(losses, norms, strict=True), 1)
    )
    known = {"events": (), "preflight": {}, "error": "", **files}
    return replace(history, files=replace(history.files, entries=entries, **known))


def test_a_loss_that_rose_with_its_gradients_speaks_against_the_rate_and_one_that_did_not_does_not(
    runs: Path,
) -> None:
    falls, flat = [4.0 - 0.2 * i for i in range(15)], [1.0] * 15
    rises, grows = [1.2 + 0.5 * i for i in range(15)], [1.0 + i for i in range(15)]
    (cause,) = find_causes(failed(runs, falls + rises, flat + grows))
    assert cause.name == "learning_rate" and "the loss fell to" in cause.evidence[0]
    assert "grew from 1 to 13" in cause.evidence[1]
    for losses, norms in ((falls + rises, flat + flat), (falls + flat, flat + grows)):
        (cause,) = find_causes(failed(runs, losses, norms))
        assert cause.name == "unknown"


def test_float16_and_a_row_are_told_from_the_rate(runs: Path) -> None:
    said = Event(16, "GUARD001", "At step 16 the loss is nan.", "stopped the run", "Lower it.")
    losses, norms = [2.0] * 15, [1.0] * 15
    half = {"training": {"fp16": True}}
    (cause,) = find_causes(failed(runs, losses, norms, events=(said,), settings=half))
    assert cause.name == "float16_overflow"
    row = replace(
        said, done="went back to step 0, and leaves out step 16, for train.jsonl row 3", evidence=("row 3",)
    )
    (cause,) = find_causes(failed(runs, losses, norms, events=(row,)))
    assert cause.name == "row" and "row 3" in cause.evidence[1]
    (cause,) = find_causes(failed(runs, losses, norms, events=(replace(said, guard="GUARD004"),)))
    assert cause.name == "guard"


def test_a_run_that_ended_before_its_steps_did_ran_out_of_rows(runs: Path) -> None:
    history = read_folder(runs / "healthy-1")
    params = {**history.run.params, "training.max_steps": "100"}
    (cause,) = find_causes(replace(history, run=replace(history.run, params=params)))
    assert cause.name == "data_ended" and "step 12 of 100" in cause.evidence[0]


def test_steps_that_were_made_again_replace_those_that_were_given_up() -> None:
    values = (9.0, 8.0, math.nan)
    entries = [Entry(step, step, {"a": value}) for step, value in enumerate(values, 1)]
    again = [Entry(2, 5, {"a": 7.0}), Entry(2, 6, {"b": 1.0})]
    assert read_series([*entries, *again])["a"].points == ((1, 9.0), (2, 7.0))


def test_a_plot_spans_the_steps_and_shows_what_is_no_number() -> None:
    points = [(1, 0.0), (2, 1.0), (3, math.nan), (4, 4.0)]
    assert draw_points(points, unicode=True, width=4, steps=(1, 4)) == "▁▃×█"
    assert draw_points(points, unicode=False, width=4, steps=(1, 4))[2] == "!"
    # An evaluation at steps 4 and 8 of 8 stands where these steps are.
    assert draw_points([(4, 2.0), (8, 1.0)], unicode=True, width=8, steps=(1, 8)) == "   ████▁"
    logs = take_logs([(1, 100.0), (2, 10.0), (3, 1.0)])
    assert draw_points(logs, unicode=True, width=3, steps=(1, 3)) == "█▄▁"


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="finds the courier in /proc")
def test_a_dead_run_is_told_and_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    folder = runs / "dead-1"
    trainer, courier = begin_endless(folder, store(runs))
    assert read_folder(folder).run.state == "running" and find_causes(read_folder(folder)) == []
    os.kill(courier, signal.SIGKILL)
    trainer.kill()
    trainer.wait()
    # Nobody is left who could tell MLflow.
    (entry,), _ = read_entries(store(runs), None, 5)
    assert (entry.run.status, entry.run.state) == ("RUNNING", "dead")
    list_runs(runs, None, None, False, "text")
    told = capsys.readouterr().out
    assert "dead-1 is dead" in told and f"ftrun sync {folder}" in told
    (cause,) = find_causes(read_folder(folder))
    assert cause.name == "killed" and "the last step that was logged" in cause.evidence[1]

    sample = Entry(1, 1, {"system/system_memory_usage_percentage": 97.0})
    line = {"step": sample.step, "time": sample.time, "metrics": dict(sample.metrics)}
    (folder / "system.jsonl").write_text(json.dumps(line) + "\n")
    assert find_causes(read_folder(folder))[0].name == "killed_for_memory"

    send_pending(folder)
    (entry,), _ = read_entries(store(runs), None, 5)
    assert (entry.run.status, entry.run.state) == ("KILLED", "killed")
    assert "ftrun sync" not in text(read_folder(folder))
    with moved(folder):
        assert read_entries(store(runs), None, 5)[0][0].run.state == "killed"


def test_two_recipes_are_compared_in_the_light_base(tmp_path: Path) -> None:
    healthy(tmp_path / "a").write()
    world = healthy(tmp_path / "b")
    world.recipe["training"]["learning_rate"] = 2e-3
    del world.recipe["training"]["seed"]
    world.rows[0]["completion"] = "Another answer."
    world.write()
    (tmp_path / "b" / "over.yaml").write_text("extends: recipe.yaml\ntraining: {weight_decay: 0.5}\n")
    code = (
        "import sys; from ftrun.runner.commands import app\n"
        "try: app(['diff', 'a/recipe.yaml', 'b/over.yaml', '--format', 'json'])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = ('torch', 'transformers', 'trl', 'datasets', 'numpy', 'mlflow')\n"
        "loaded = [name for name in heavy if name in sys.modules]\n"
        "assert not loaded, loaded"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    told = {
        one["key"]: (one["a"]["value"], one["b"]["value"], one["b"]["origin"]) for one in found["settings"]
    }
    assert told == {
        "training.learning_rate": (1e-3, 2e-3, "extends recipe.yaml:11"),
        "training.weight_decay": (0.0, 0.5, "over.yaml:2"),
        "training.seed": (7, 42, "default of TRL"),
    }
    assert [one["place"] for one in found["data"]] == ["training 1", "held out 1"]
    assert found["data"][0]["a"]["sha256"] != found["data"][0]["b"]["sha256"]


def test_two_runs_are_compared_from_the_first_step_that_differs(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow, fast = (read_side(str(runs / name), None) for name in ("healthy-1", "faster-1"))
    found = compare(slow, fast)
    assert [one.name for one in found.settings] == ["training.learning_rate"]
    assert not found.data
    assert {one.name for one in found.environment} <= {"sources of ftrun", "commit", "changes"}
    curves = {one.name: one for one in found.curves}
    a, b = dict(slow.series["train/loss"].points), dict(fast.series["train/loss"].points)
    differing = [step for step in a if a[step] != b[step]]
    loss = curves["train/loss"]
    assert loss.first == differing[0] == 3  # the rate of the first step is 0, and its loss is from before
    assert (
        loss.largest
        == max(abs(a[step] - b[step]) for step in a)
        == abs(a[loss.worst or 0] - b[loss.worst or 0])
    )
    lines = [" " * line.indent + line.text.strip() for line in tell_difference(found, NARROW)]
    assert any("first at step 3" in line for line in lines) and max(map(len, lines)) <= NARROW.width

    same = compare(slow, slow)
    assert not same.settings and all(one.first is None for one in same.curves)
    assert compare_things(str(runs / "healthy-1"), str(runs / "healthy-1"), None, "json") == 0
    assert json.loads(capsys.readouterr().out)["settings"] == []


def test_a_run_folder_is_told_in_the_light_base(runs: Path) -> None:
    code = (
        "import sys; from ftrun.runner.commands import app\n"
        "for words in (['show', 'healthy-1'], ['diff', 'healthy-1', 'faster-1']):\n"
        "    try: app([words[0], *('runs/' + word for word in words[1:])])\n"
        "    except SystemExit as end: assert not end.code, end.code\n"
        "loaded = [name for name in ('torch', 'transformers', 'numpy', 'mlflow') if name in sys.modules]\n"
        "assert not loaded, loaded"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=runs.parent, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Curves" in done.stdout


def test_a_recipe_is_compared_with_the_run_that_it_made(runs: Path) -> None:
    recipe, ran = runs.parent / "healthy" / "recipe.yaml", str(runs / "healthy-1")
    found = compare(read_side(str(recipe), None), read_side(ran, None))
    assert not found.settings and not found.data and not found.results
    other = compare(read_side(str(runs.parent / "faster" / "recipe.yaml"), None), read_side(ran, None))
    (rate,) = other.settings
    assert (rate.a and rate.a.value, rate.b and rate.b.value) == (2e-3, 1e-3)
    assert rate.b is not None and rate.b.origin.startswith("recipe.yaml:")


def test_the_command_of_a_run_tells_what_was_set_and_how_to_go_on(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "burnt-1", tmp_path / "burnt-1")
    lock = json.loads((tmp_path / "burnt-1" / "lock.json").read_text())
    lock["segments"][0]["command"] = "/usr/bin/ftrun recipe.yaml --set training.learning_rate=1e25 --resume"
    (tmp_path / "burnt-1" / "lock.json").write_text(json.dumps(lock))
    settings = read_side(str(tmp_path / "burnt-1"), None).settings
    assert settings["training.learning_rate"].origin == "--set"
    assert settings["training.weight_decay"].origin == "default of TRL"
    assert settings["guards.max_grad_norm"].origin == "default of ftrun"
    (way,) = find_ways_on(read_folder(tmp_path / "burnt-1").run)
    assert way.command == "ftrun recipe.yaml --set training.learning_rate=1e25" and "starts anew" in way.what


def test_pipelines_are_compared_stage_by_stage(runs: Path, tmp_path: Path) -> None:
    path = write_pipeline(tmp_path, runs)
    document = yaml.safe_load(path.read_text())
    document["stages"]["second"]["set"]["training.seed"] = 8
    document["stages"]["third"] = {"recipe": "recipe.yaml"}
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    found = compare(read_side(str(path), None), read_side(str(runs / "twice-1"), None))
    assert {one.name for one in found.settings} == {"stages", "second.training.seed", "second.model.path"}
    assert not found.data


def test_what_cannot_be_found_is_exit_code_2(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for other in ("nothing.yaml", "./nothing", str(runs)):
        assert compare_things(str(runs / "healthy-1"), other, store(runs), "text") == 2
        assert capsys.readouterr().err.startswith("ftrun: ")


def test_a_folder_without_files_of_the_record_is_told_all_the_same(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "healthy-1", tmp_path / "bare")
    for file in (tmp_path / "bare").iterdir():
        if file.is_file() and file.name != "tracking.json":
            file.unlink()
    history = read_folder(tmp_path / "bare")
    assert history.run.name in text(history) and history.series == {}
