from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from ftrun.runner.tracking.callback import name_metrics
from ftrun.runner.tracking.git import describe_git


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(
        ["git", "-C", folder, *identity, *words], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_logs_are_named_by_what_they_report() -> None:
    assert name_metrics({"loss": 1.5, "epoch": 1, "rewards/margins": 0.5}) == {
        "train/loss": 1.5,
        "train/epoch": 1.0,
        "train/rewards/margins": 0.5,
    }
    assert name_metrics({"eval_loss": 1.5, "eval_set_acc": 0.5, "epoch": 1.0}) == {
        "eval/loss": 1.5,
        "eval/set_acc": 0.5,
        "eval/epoch": 1.0,
    }


def test_numbers_of_every_library_count_and_words_do_not() -> None:
    numpy = pytest.importorskip("numpy")
    torch = pytest.importorskip("torch")
    logs: dict[str, Any] = {
        "a": numpy.float32(0.5),
        "b": numpy.int64(2),
        "c": torch.tensor(0.25),
        "words": "x",
        "more": numpy.str_("x"),
        "many": numpy.zeros(2),
        "none": None,
    }
    assert name_metrics(logs) == {"train/a": 0.5, "train/b": 2.0, "train/c": 0.25}


def test_the_trainer_writes_through_the_callback(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from ftrun.runner.tracking.callback import make_callback
    from ftrun.runner.tracking.journal import read_journal
    from ftrun.runner.tracking.run import TrackedRun

    run = TrackedRun.start(f"sqlite:///{tmp_path}/m.db", "e", "r", tmp_path, {}, {}, sample_seconds=None)
    callback = make_callback(run)
    assert isinstance(callback, transformers.TrainerCallback)
    control = transformers.TrainerControl()
    for step, main in ((3, True), (4, False)):
        state = transformers.TrainerState(global_step=step, is_world_process_zero=main)
        callback.on_log(None, state, control, logs={"loss": 0.1 + 0.2, "note": "x"})
    run.finish("FINISHED", 120.0)
    [entry] = read_journal(tmp_path / "metrics.jsonl")
    assert (entry.step, entry.metrics) == (3, {"train/loss": 0.1 + 0.2})


def test_a_repository_is_described(tmp_path: Path) -> None:
    git(tmp_path, "init", "-b", "topic")
    (tmp_path / "a.txt").write_text("one")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    git(tmp_path, "remote", "add", "origin", "https://me:hunter2@example.org/a.git")
    (tmp_path / "untracked").write_text("x")
    tags = describe_git(tmp_path)
    assert tags == {
        "mlflow.source.git.commit": git(tmp_path, "rev-parse", "HEAD"),
        "mlflow.source.git.branch": "topic",
        "mlflow.source.git.repoURL": "https://<secret>@example.org/a.git",
        "mlflow.source.git.dirty": "false",
    }
    (tmp_path / "a.txt").write_text("two")
    assert describe_git(tmp_path)["mlflow.source.git.dirty"] == "true"


def test_no_repository_and_no_git_describe_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert describe_git(tmp_path) == {}
    assert describe_git(tmp_path / "absent") == {}
    monkeypatch.setenv("PATH", "")
    assert describe_git(tmp_path) == {}
