"""What the record costs the step loop, with a tracking server that is 200 ms away.

    python benchmarks/record_overhead.py [--steps 60] [--accumulation 8] [--delay 0.2] [--every 20]

The shipped recipe for SFT is trained with every step logged and a checkpoint every so many steps, against a real
`mlflow server` behind a proxy that delays both directions. Each callback of ftrun's is timed where it is called, on
the thread that trains, so its time and that of the steps are of the same steps of the same run. Prints milliseconds
for each step, of the wall and of the CPU, and their share of a step; what a checkpoint's manifest takes beside writing
the checkpoint; and the CPU that other threads of this process and the courier took meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "sft.yaml"
RECORD = ("tracking.callback", "record.ladder")
CHECKPOINTS = ("checkpoints",)

Times = dict[str, list[tuple[float, float]]]
"""Of each callback the seconds of its calls, of the wall and of the CPU."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--accumulation", type=int, default=8, help="micro-batches of a step")
    parser.add_argument("--delay", type=float, default=0.2, help="seconds from a request to its answer")
    parser.add_argument("--every", type=int, default=20, help="steps between checkpoints")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with serve(folder) as port, delay(port, options.delay / 2) as far:
            train(options, folder, f"http://127.0.0.1:{far}")


def train(options: argparse.Namespace, folder: Path, uri: str) -> None:
    from transformers import Trainer

    from ftrun.checks.catalogue import load_checks
    from ftrun.runner.printing.text import make_console
    from ftrun.runner.run import run_recipe

    times: Times = defaultdict(list)
    loop: dict[str, float] = {}
    add, save = Trainer.add_callback, Trainer._save_checkpoint

    def add_timed(trainer: Any, callback: Any) -> None:
        add(trainer, timed(callback, times, loop))

    def save_timed(trainer: Any, *values: Any, **named: Any) -> None:
        clock(times, "transformers: writing a checkpoint", save)(trainer, *values, **named)

    Trainer.add_callback, Trainer._save_checkpoint = add_timed, save_timed
    training = {
        "max_steps": options.steps,
        "gradient_accumulation_steps": options.accumulation,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": options.every,
        "eval_strategy": "no",
    }
    sets = [f"training.{key}={value}" for key, value in training.items()]
    sets += [f"output={folder}/runs", f"tracking.uri={uri}"]
    ignored = {one.id: "measured alone" for one in load_checks()}
    console = make_console(stderr=True)
    code = run_recipe(RECIPE, sets=sets, ignore=ignored, out=console, err=console)
    if code:
        raise SystemExit(code)
    tell(times, loop, options)


def timed(callback: Any, times: Times, loop: dict[str, float]) -> Any:
    """The callback with its methods timed, if it is ftrun's; the loop is what lies between the first to begin and the
    first to end."""
    kind = type(callback)
    if not kind.__module__.startswith("ftrun."):
        return callback
    for event in [name for name in vars(kind) if name.startswith("on_")]:
        whose = f"{kind.__module__.removeprefix('ftrun.runner.')}: {event}"
        setattr(callback, event, mark(event, loop, clock(times, whose, getattr(callback, event))))
    return callback


def mark(event: str, loop: dict[str, float], call: Callable[..., Any]) -> Callable[..., Any]:
    def marked(*values: Any, **named: Any) -> Any:
        edge = {"on_step_begin": "begin", "on_train_end": "end"}.get(event)
        if edge and f"{edge} wall" not in loop:
            clocks = (time.perf_counter(), time.thread_time(), time.process_time(), courier_seconds())
            loop.update(
                zip(
                    (f"{edge} {one}" for one in ("wall", "thread", "process", "courier")), clocks, strict=True
                )
            )
        return call(*values, **named)

    return marked


def clock(times: Times, whose: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def clocked(*values: Any, **named: Any) -> Any:
        wall, cpu = time.perf_counter(), time.thread_time()
        try:
            return call(*values, **named)
        finally:
            times[whose].append((time.perf_counter() - wall, time.thread_time() - cpu))

    return clocked


def courier_seconds() -> float:
    """CPU seconds of the processes that this one has started."""
    found = 0.0
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if any("courier" in word for word in child.cmdline()):
                found += sum(child.cpu_times()[:2])
    return found


def tell(times: Times, loop: dict[str, float], options: argparse.Namespace) -> None:
    steps = options.steps
    spent = {
        one: loop[f"end {one}"] - loop[f"begin {one}"] for one in ("wall", "thread", "process", "courier")
    }
    for whose, calls in sorted(times.items(), key=lambda one: -sum(wall for wall, _ in one[1])):
        wall, cpu = (sum(column) for column in zip(*calls, strict=True))
        spell = f"{1e3 * wall / steps:8.3f} ms wall  {1e3 * cpu / steps:8.3f} ms CPU a step"
        print(f"{whose:55} {len(calls):4} calls  {spell}")
    print(
        f"a step: {1e3 * spent['wall'] / steps:.1f} ms wall, {1e3 * spent['thread'] / steps:.1f} ms CPU of its thread"
    )
    for title, modules in (("the record", RECORD), ("manifests of checkpoints", CHECKPOINTS)):
        calls = [call for whose, some in times.items() if whose.startswith(modules) for call in some]
        wall, cpu = (sum(column) for column in zip(*calls, strict=True))
        print(
            f"{title}: {1e3 * wall / steps:.3f} ms wall, {1e3 * cpu / steps:.3f} ms CPU a step, "
            f"{wall / spent['wall']:.2%} of the wall, {cpu / spent['thread']:.2%} of the CPU"
        )
    other = spent["process"] - spent["thread"]
    print(
        f"other threads: {1e3 * other / steps:.2f} ms CPU a step; the courier: {1e3 * spent['courier'] / steps:.2f} ms"
    )


@contextmanager
def serve(folder: Path) -> Iterator[int]:
    """The port of an `mlflow server` with its store in a folder."""
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
    store = ["--backend-store-uri", f"sqlite:///{folder}/m.db", "--artifacts-destination", f"{folder}/files"]
    quiet = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            command + store, cwd=folder, env=quiet, stdout=log, stderr=log, start_new_session=True
        )
    try:
        while True:
            with contextlib.suppress(OSError):
                if urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200:
                    break
            time.sleep(0.2)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


@contextmanager
def delay(target: int, seconds: float) -> Iterator[int]:
    """The port of a proxy to another port, that hands on what it reads so many seconds later. It is a process of its
    own, so that its threads are none of those that are measured."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
    proxy = multiprocessing.get_context("spawn").Process(
        target=relay, args=(port, target, seconds), daemon=True
    )
    proxy.start()
    try:
        yield port
    finally:
        proxy.terminate()
        proxy.join()


def relay(port: int, target: int, seconds: float) -> None:
    listener = socket.create_server(("127.0.0.1", port))
    while True:
        near, _ = listener.accept()
        far = socket.create_connection(("127.0.0.1", target))
        for source, sink in ((near, far), (far, near)):
            threading.Thread(target=pump, args=(source, sink, seconds), daemon=True).start()


def pump(source: socket.socket, sink: socket.socket, seconds: float) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 20):
            time.sleep(seconds)
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    main()
