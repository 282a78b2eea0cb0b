"""A run read from its run folder alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ftrun.runner.story.history import History, read_series
from ftrun.runner.story.life import look_for_life
from ftrun.runner.story.record_files import RecordFiles, read_record_files
from ftrun.runner.story.run import Run
from ftrun.runner.tracking.delivered import PARENT_TAG, read_delivered
from ftrun.runner.tracking.journal import now_ms
from ftrun.runner.tracking.ledger import Ledger, read_ledger
from ftrun.schemas.errors import TrackingError


def read_folder(folder: Path) -> History:
    """The run in a run folder, read from its files alone. Raises TrackingError where there is none."""
    folder = folder.absolute()
    ledger = read_ledger(folder)
    if ledger is None:
        raise TrackingError(f"{folder} is no run folder: it holds no record of a run")
    files = read_record_files(folder)
    below = (one for one in sorted(folder.iterdir()) if one.is_dir() and _is_below(one, folder))
    children = [read_folder(one).run for one in below]
    children.sort(key=lambda one: one.started)
    run = _run_of_folder(folder, ledger, files)
    return History(run, ledger.uri, files, ledger.datasets, tuple(children))


def _run_of_folder(folder: Path, ledger: Ledger, files: RecordFiles) -> Run:
    delivered = read_delivered(folder, ledger)
    last_sign = files.entries[-1].time if files.entries else ledger.start_time
    return Run(
        name=ledger.name,
        run_id=delivered.run_id,
        experiment=ledger.experiment,
        status=ledger.status,
        life=look_for_life(folder, last_sign, now_ms()) if ledger.status == "RUNNING" else "gone",
        started=ledger.start_time,
        ended=ledger.end_time if ledger.status != "RUNNING" else 0,
        folder=folder,
        tags={**delivered.tags, **ledger.tags},
        params=ledger.params,
        latest={name: one.last for name, one in read_series(files.entries).items()},
        last_sign=last_sign,
        parent=delivered.tags.get(PARENT_TAG, ""),
    )


def _is_below(folder: Path, parent: Path) -> bool:
    """Whether a folder holds a stage of the pipeline's run in `parent`."""
    ledger = try_ledger(folder)
    return (
        ledger is not None and bool(ledger.parent) and (folder / ledger.parent).resolve() == parent.resolve()
    )


def is_run_folder(folder: Path) -> bool:
    """Whether a folder is a run's. Raises TrackingError where its ledger cannot be read."""
    return read_ledger(folder) is not None


def find_home(tags: Mapping[str, str]) -> tuple[Path | None, Ledger | None]:
    """The folder of a run and its ledger, where both are on this machine and are of this very run."""
    if "ftrun.folder" not in tags:
        return None, None
    folder = Path(tags["ftrun.folder"])
    ledger = try_ledger(folder)
    is_same = ledger is not None and ledger.key == tags.get("ftrun.key")
    return (folder, ledger) if is_same else (None, None)


def try_ledger(folder: Path) -> Ledger | None:
    """The ledger of a folder, None where there is none that can be read."""
    try:
        return read_ledger(folder)
    except (TrackingError, OSError):
        return None
