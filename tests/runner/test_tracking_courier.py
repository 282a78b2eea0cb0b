"""The delivering process: what it survives, what it ends, and what nobody may see of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from ftrun.runner.tracking.courier import Orders, Trainer
from ftrun.runner.tracking.delivered import read_delivered
from ftrun.runner.tracking.ledger import LedgerFile, new_ledger, read_ledger
from ftrun.runner.tracking.pending import send_pending
from ftrun.runner.tracking.run import TrackedRun

WAIT = 120.0  # seconds
TRAINING = """
import os, signal, sys, time
from pathlib import Path
from ftrun.runner.tracking.run import TrackedRun
with TrackedRun.start(sys.argv[1], "tests", "r", Path(sys.argv[2]), {}, {}) as run:
    process = os.getpid()
    if os.fork() == 0:  # a data-loading worker: it holds what the process held, for a while longer
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        while os.getppid() == process:
            time.sleep(0.1)
        time.sleep(2)
        os._exit(0)
    while not run.run_id:
        time.sleep(0.05)
    for step in range(50):
        run.log(step, {"loss": step / 3})
    print("trained", flush=True)
    time.sleep(600)
"""
HANGING = """
import sys, time
from ftrun.runner.tracking import courier
courier.PATIENCE = courier.GRACE = 0.1
courier.connect = lambda uri: time.sleep(600)
courier.main()
"""


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


def train(uri: str, folder: Path) -> subprocess.Popen[bytes]:
    """A process that has logged fifty steps and trains on."""
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINING, uri, str(folder)],
        env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        # Whoever runs the tests in the background has them ignore Ctrl-C, which their children would inherit.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"trained\n"
    return process


def find_courier(trainer: int | None = None) -> psutil.Process:
    """The newest courier of a process; absent, of this one."""
    found = [
        child
        for child in psutil.Process(trainer).children()
        if child.status() != psutil.STATUS_ZOMBIE and "ftrun.runner.tracking.courier" in child.cmdline()
    ]
    return max(found, key=lambda one: one.create_time())


def fetch(uri: str, folder: Path) -> Any:
    from mlflow import MlflowClient

    ledger = read_ledger(folder)
    assert ledger is not None
    return MlflowClient(tracking_uri=uri).get_run(read_delivered(folder, ledger).run_id)


def steps(uri: str, run_id: str) -> list[int]:
    from mlflow import MlflowClient

    return sorted(one.step for one in MlflowClient(tracking_uri=uri).get_metric_history(run_id, "loss"))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_run_whose_process_is_killed_does_not_stay_running(uri: str, tmp_path: Path) -> None:
    process = train(uri, tmp_path)
    courier = find_courier(process.pid)
    process.kill()
    process.communicate()
    courier.wait(WAIT)
    found = fetch(uri, tmp_path)
    assert found.info.status == "KILLED"
    assert found.data.tags["ftrun.failure"] == "the process disappeared"
    assert found.info.end_time >= found.info.start_time
    assert steps(uri, found.info.run_id) == list(range(50))
    ledger = read_ledger(tmp_path)
    assert ledger is not None and ledger.status == "KILLED"

    with TrackedRun.start(uri, "tests", "r", tmp_path, {}, {}) as resumed:
        resumed.log(50, {"loss": 1.0})
        resumed.finish("FINISHED", WAIT)
    again = fetch(uri, tmp_path)
    assert (again.info.run_id, again.info.status) == (found.info.run_id, "FINISHED")
    assert "ftrun.failure" not in again.data.tags
    assert steps(uri, again.info.run_id) == list(range(51))


def test_a_run_that_lost_both_processes_is_completed_by_sync(uri: str, tmp_path: Path) -> None:
    process = train(uri, tmp_path)
    courier = find_courier(process.pid)
    courier.kill()
    process.kill()
    process.communicate()
    courier.wait(WAIT)
    assert fetch(uri, tmp_path).info.status == "RUNNING"
    assert "The record is in MLflow" in send_pending(tmp_path)
    found = fetch(uri, tmp_path)
    assert found.info.status == "KILLED"
    assert found.data.tags["ftrun.failure"] == "the process disappeared"
    assert steps(uri, found.info.run_id) == list(range(50))


def test_ctrl_c_in_the_terminal_reaches_training_alone(uri: str, tmp_path: Path) -> None:
    process = train(uri, tmp_path)
    courier = find_courier(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=WAIT)
    assert (output, errors.splitlines()[-1]) == (b"", b"KeyboardInterrupt")
    assert fetch(uri, tmp_path).info.status == "KILLED"
    assert fetch(uri, tmp_path).data.tags["ftrun.failure"].startswith("KeyboardInterrupt")
    courier.wait(WAIT)


def test_a_courier_that_was_killed_is_replaced_at_the_end(uri: str, tmp_path: Path) -> None:
    run = TrackedRun.start(uri, "tests", "r", tmp_path, {}, {}, sample_seconds=None)
    wait_for(lambda: bool(run.run_id))
    find_courier().kill()
    for step in range(10):
        run.log(step, {"loss": 1.0})
    run.finish("FINISHED", WAIT)
    assert not run.pending, run.outcome
    assert steps(uri, run.run_id) == list(range(10))


def test_credentials_are_not_in_the_process_list_and_the_courier_ends(tmp_path: Path) -> None:
    run = TrackedRun.start("http://me:hunter2pw@127.0.0.1:9", "tests", "r", tmp_path, {}, {})
    courier = find_courier()
    assert "hunter2pw" not in " ".join(courier.cmdline())
    wait_for(lambda: bool(run.problem))
    assert "ftrun sync" in run.finish("FINISHED", 0.0)
    courier.wait(WAIT)
    for file in tmp_path.iterdir():
        assert b"hunter2pw" not in file.read_bytes(), file


def test_the_courier_imports_nothing_that_trains(uri: str, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "import ftrun.runner.tracking.courier\n"
        "from ftrun.runner.tracking.delivery import connect\n"
        "connect(sys.argv[1]).search_experiments()\n"
        "assert 'mlflow' in sys.modules\n"
        "heavy = {'torch', 'transformers', 'trl', 'peft', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    environment = {"PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", code, uri], check=True, env=environment)


def test_a_store_that_hangs_does_not_keep_the_courier(tmp_path: Path) -> None:
    ledger = LedgerFile(tmp_path, new_ledger("http://hangs", "tests", "r", {}, {}, [])).now
    done = subprocess.run(
        [sys.executable, "-c", HANGING],
        input=Orders(str(tmp_path), ledger.uri, ledger.session, None).encode(),
        env={"PYTHONPATH": ":".join(sys.path)},
        timeout=WAIT,
    )
    assert done.returncode == 1
    after = read_ledger(tmp_path)
    assert after is not None and after.status == "KILLED"


def test_patience_with_a_store_ends_after_the_trainer_disappeared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftrun.runner.tracking.courier.PATIENCE", 0.2)
    near, far = os.pipe()
    trainer = Trainer(near)
    trainer.listen()
    assert not trainer.is_over()
    os.close(far)
    wait_for(trainer.is_over)
    assert not trainer.must_stop()
    wait_for(trainer.must_stop)


def test_who_says_finish_is_waited_for_until_stop() -> None:
    near, far = os.pipe()
    trainer = Trainer(near)
    trainer.listen()
    os.write(far, b"finish\n")
    wait_for(trainer.is_over)
    assert not trainer.must_stop()
    os.write(far, b"stop\n")
    wait_for(trainer.must_stop)
    os.close(far)
