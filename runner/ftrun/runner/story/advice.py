"""What can be done next with a run."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from ftrun.runner.checkpoints import list_checkpoints
from ftrun.runner.story.record_files import LOCK
from ftrun.runner.story.run import Run


@dataclass(frozen=True)
class Way:
    """A command, and what it does."""

    command: str
    what: str


def find_ways_on(run: Run) -> list[Way]:
    """What to do with a run as it stands: end it, go on with it, use it, repeat it."""
    if run.state == "running":
        return []
    if run.state == "silent":
        host = run.tags.get("ftrun.host", "its machine")
        return [Way("ftrun sync RUN-FOLDER", f"on {host} ends it, if its process is gone")]
    ways = []
    if run.state == "dead" and run.folder is not None:
        ways.append(Way(f"ftrun sync {name_folder(run.folder)}", "ends it: MLflow then holds it as killed"))
    if run.state == "finished":
        return ways + ([] if run.is_pipeline else _use(run))
    return [*ways, _go_on(run)]


def name_folder(folder: Path) -> str:
    """A folder as it is typed here: relative where it lies below the working directory."""
    here = Path.cwd()
    shown = folder.relative_to(here) if folder.is_relative_to(here) else folder
    return shlex.quote(str(shown))


def name_run(run: Run) -> str:
    """A run as a command takes it."""
    return shlex.quote(run.name) if run.folder is None else name_folder(run.folder)


def _use(run: Run) -> list[Way]:
    name = name_run(run)
    ways = []
    if run.folder is not None and not (run.folder / "model").is_dir():
        return [Way(f"ftrun reproduce {name}", "repeats it: its model is not in its folder any more")]
    if run.folder is not None and run.method != "reward":
        ways.append(Way(f"ftrun chat {name} --compare", "talks to it, beside its base"))
    if run.folder is not None:
        ways.append(Way(f"ftrun export {name} DEST", "writes a plain model folder"))
    return [*ways, Way(f"ftrun reproduce {name}", "repeats it and proves it equal")]


def _go_on(run: Run) -> Way:
    is_stage = run.is_pipeline or "ftrun.pipeline" in run.tags
    start = _find_command(run) or f"ftrun {'PIPELINE' if is_stage else 'RECIPE'}"
    if is_stage:
        return Way(f"{start} --resume", "goes on with the pipeline where it stopped")
    if run.folder is None:
        host = run.tags.get("ftrun.host", "the machine it ran on")
        return Way(f"{start} --resume", f"on {host} goes on from its last checkpoint, if it left one")
    checkpoints = list_checkpoints(run.folder)
    if not checkpoints:
        return Way(start, "starts anew: it left no checkpoint to go on from")
    if not _is_newest(run.folder):
        return Way(start, "starts anew: --resume goes on with the newest run of a recipe, not this one")
    return Way(f"{start} --resume", f"goes on from checkpoint-{max(checkpoints)}")


def _find_command(run: Run) -> str | None:
    """The command that started a run, without --resume, where its record tells it and it was ftrun's own."""
    if run.folder is None:
        return None
    try:
        lock = json.loads((run.folder / LOCK).read_text(encoding="utf-8"))
        program, *words = shlex.split(lock["segments"][0]["command"])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None
    if Path(program).name not in ("ftrun", "__main__.py"):
        return None
    return shlex.join(["ftrun", *(word for word in words if word not in ("--resume", "run"))])


def _is_newest(folder: Path) -> bool:
    """Whether no later run of the same recipe lies beside a run folder."""
    name, _, number = folder.name.rpartition("-")
    beside = (one.name.rpartition("-") for one in folder.parent.glob(f"{name}-*"))
    numbers = [int(last) for first, _, last in beside if first == name and last.isdecimal()]
    return number.isdecimal() and int(number) >= max(numbers, default=0)
