from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ftrun.runner.tracking.journal import read_journal
from ftrun.runner.tracking.ledger import TrackedData
from ftrun.runner.tracking.pending import send_pending
from ftrun.runner.tracking.run import TrackedRun

WAIT = 120.0  # seconds
pytestmark = pytest.mark.slow  # the server alone takes ten to forty seconds to start


@dataclass
class Wire:
    """A TCP connection to the server that can be cut and mended."""

    target: int
    port: int = 0
    _listener: socket.socket | None = None
    _open: list[socket.socket] = field(default_factory=list)

    def mend(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        assert self._listener is not None
        for end in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
                self._open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=_pump, args=(source, sink), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a real `mlflow server` with one worker."""
    folder = tmp_path_factory.mktemp("server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "-w",
        "1",
    ]
    store = [
        "--backend-store-uri",
        f"sqlite:///{folder}/m.db",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    quiet = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            command + store, cwd=folder, env=quiet, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait_until_up(port, folder / "log.txt")
        yield port
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def _wait_until_up(port: int, log: Path) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError):
            if urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200:
                return
        time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.fixture
def wire(server: int) -> Iterator[Wire]:
    wire = Wire(server)
    wire.mend()
    yield wire
    wire.cut()


def begin(wire: Wire, folder: Path, **more: Any) -> TrackedRun:
    values = {"params": {"seed": 1}, "tags": {}, "sample_seconds": None, **more}
    return TrackedRun.start(f"http://127.0.0.1:{wire.port}", "served", folder.name, folder, **values)


def client_of(wire: Wire) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=f"http://127.0.0.1:{wire.target}")


def history(wire: Wire, run_id: str, key: str) -> list[tuple[int, str]]:
    found = client_of(wire).get_metric_history(run_id, key)
    return sorted((metric.step, metric.value.hex()) for metric in found)


def test_a_server_gets_the_whole_record(wire: Wire, tmp_path: Path) -> None:
    data = TrackedData("d.jsonl", "d.jsonl", "ab" * 32, 9, "training")
    with begin(wire, tmp_path, datasets=[data], params={"a": {"b": 0.1}}) as run:
        for step in range(300):
            run.log(step, {"loss": 1 / (step + 1), "nan": float("nan")})
        run.log_text("hello", "note.txt")
        run.finish("FINISHED", WAIT)
    assert not run.pending, run.problem
    assert history(wire, run.run_id, "loss") == [(step, (1 / (step + 1)).hex()) for step in range(300)]
    assert history(wire, run.run_id, "nan") == [(step, "nan") for step in range(300)]
    found = client_of(wire).get_run(run.run_id)
    assert (found.info.status, found.data.params) == ("FINISHED", {"a.b": "0.1"})
    assert found.inputs.dataset_inputs[0].dataset.digest == ("ab" * 32)[:36]
    names = [file.path for file in client_of(wire).list_artifacts(run.run_id, "ftrun")]
    assert sorted(names) == ["ftrun/metrics.jsonl", "ftrun/note.txt"]
    address = f"http://127.0.0.1:{wire.port}/#/experiments/{found.info.experiment_id}/runs/{run.run_id}"
    assert run.describe() == address


def test_a_server_that_goes_away_loses_nothing(wire: Wire, tmp_path: Path) -> None:
    run = begin(wire, tmp_path)
    for step in range(100):
        run.log(step, {"loss": step / 3})
    deadline = time.monotonic() + WAIT
    while not run.run_id or len(history(wire, run.run_id, "loss")) < 100:
        assert time.monotonic() < deadline, run.problem
        time.sleep(0.1)
    wire.cut()
    for step in range(100, 400):
        run.log(step, {"loss": step / 3})
    assert "ftrun sync" in run.finish("FAILED", wait_seconds=0.5)
    assert len(read_journal(tmp_path / "metrics.jsonl")) == 400
    assert client_of(wire).get_run(run.run_id).info.status == "RUNNING"

    wire.mend()
    assert "The record is in MLflow" in send_pending(tmp_path)
    assert history(wire, run.run_id, "loss") == [(step, (step / 3).hex()) for step in range(400)]
    assert client_of(wire).get_run(run.run_id).info.status == "FAILED"


def test_a_server_that_comes_back_is_found_while_training(wire: Wire, tmp_path: Path) -> None:
    wire.cut()
    run = begin(wire, tmp_path)
    run.log(1, {"loss": 1.0})
    deadline = time.monotonic() + WAIT
    while not run.problem:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    wire.mend()
    run.log(2, {"loss": 0.5})
    run.finish("FINISHED", WAIT)
    assert not run.pending, run.problem
    assert history(wire, run.run_id, "loss") == [(1, (1.0).hex()), (2, (0.5).hex())]


def test_an_answer_that_got_lost_makes_no_second_run(wire: Wire, tmp_path: Path) -> None:
    run = begin(wire, tmp_path)
    run.finish("FINISHED", WAIT)
    made = run.run_id
    (tmp_path / "delivered.json").unlink()
    send_pending(tmp_path)
    assert run.run_id == made
