from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ftrun.runner.tracking.store import describe_place, resolve_uri, sqlite_path
from ftrun.schemas.errors import TrackingError

START = """
import sys
from pathlib import Path
from ftrun.runner.tracking.run import TrackedRun
uri, folder = sys.argv[1], Path(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
run = TrackedRun.start(uri, "four", folder.name, folder, {"a": 1}, {}, sample_seconds=None)
run.log(1, {"loss": 0.5})
print(run.finish("FINISHED", wait_seconds=120))
print("pending" if run.pending else "complete")
"""


def test_the_first_uri_that_is_given_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://team:5000/")
    assert resolve_uri("http://mine:5000", tmp_path) == "http://mine:5000"
    assert resolve_uri(None, tmp_path) == "http://team:5000"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert resolve_uri(None, tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"


def test_sqlite_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert (
        resolve_uri("sqlite:///runs/m.db?timeout=5", tmp_path) == f"sqlite:///{tmp_path}/runs/m.db?timeout=5"
    )
    assert resolve_uri(None, Path("runs")) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert sqlite_path(f"sqlite:///{tmp_path}/m.db?timeout=5") == tmp_path / "m.db"


@pytest.mark.parametrize(
    "uri", ["mlruns", "./mlruns", "/data/mlruns", "file:///data/mlruns", "sqlite://", "sqlite:///:memory:"]
)
def test_a_store_that_mlflow_cannot_keep_is_refused_with_what_to_use(uri: str, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="sqlite:///"):
        resolve_uri(uri, tmp_path)


def test_what_to_open_is_told_without_credentials() -> None:
    assert describe_place("http://h:5000", "3", "abc") == "http://h:5000/#/experiments/3/runs/abc"
    assert (
        describe_place("sqlite:////a b/m.db", "3", "abc")
        == "mlflow ui --backend-store-uri 'sqlite:////a b/m.db'"
    )
    assert "hunter2" not in describe_place("postgresql://me:hunter2@h/db", "3", "abc")


def test_importing_the_record_imports_no_heavy_package() -> None:
    code = (
        "import sys, pkgutil, importlib, ftrun.runner.tracking as t\n"
        "names = [m.name for m in pkgutil.iter_modules(t.__path__)]\n"
        "[importlib.import_module(f'{t.__name__}.{name}') for name in names]\n"
        "assert len(names) > 5, names\n"
        "heavy = {'mlflow', 'torch', 'transformers', 'psutil', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_four_processes_meet_at_a_fresh_store(tmp_path: Path) -> None:
    uri = resolve_uri(f"sqlite:///{tmp_path}/a store/mlflow.db", tmp_path)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", START, uri, str(tmp_path / f"run{number}")],
            env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=180)[0] for process in processes]
    assert [output.splitlines()[-1] for output in outputs] == ["complete"] * 4, outputs

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("four")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["run0", "run1", "run2", "run3"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert experiment.artifact_location == (tmp_path / "a store/mlruns/four").as_uri()
