"""The checkpoints of a run folder: proved when they are read, and never lost to one that is half written.

transformers writes a checkpoint's files one after the other into `checkpoints/checkpoint-<step>/`, and reads back
what it finds there: with the optimizer's file missing it begins a new optimizer, and a flipped bit trains on, both
without a word. So a checkpoint counts once its manifest is there, which is written last and holds the digest of every
file; and older ones are removed after that, not before.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftrun.runner.weights import digest_file
from ftrun.schemas.errors import RunError

if TYPE_CHECKING:
    from transformers import Trainer, TrainerCallback

MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True)
class Origin:
    """What a checkpoint is of."""

    recipe: str
    """SHA-256 of the resolved recipe."""

    rows: str
    """SHA-256 of the tokenised rows, in the order of the data set."""

    only_model: bool
    """Whether the recipe leaves optimizer, schedule and random states out (`training.save_only_model`)."""

    processes: int = 1
    """How many processes trained."""

    batch: int | None = None
    """The effective batch: rows of an update, over all processes. Unknown where an earlier ftrun wrote it."""


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint is of, and the SHA-256 of each of its files by name."""

    origin: Origin
    files: dict[str, str]


def list_checkpoints(folder: Path) -> dict[int, Path]:
    """The checkpoints of a run folder that were written to their end and hold all that a run goes on with, by step."""
    found = _list_folders(folder / "checkpoints")
    return {
        step: one
        for step, one in found.items()
        if (one / MANIFEST_FILE).is_file() and not _is_only_model(one)
    }


def _is_only_model(checkpoint: Path) -> bool:
    """Whether `training.save_only_model` left the optimizer out, with which transformers would begin anew."""
    manifest = read_manifest(checkpoint)
    return manifest is not None and manifest.origin.only_model


def _list_folders(folder: Path) -> dict[int, Path]:
    found = ((one.name.rpartition("-")[2], one) for one in folder.glob("checkpoint-*"))
    return {int(step): one for step, one in found if step.isdecimal()}


def remove_unfinished(folder: Path) -> None:
    """Remove what is left of a checkpoint that could not be written to its end."""
    for checkpoint in _list_folders(folder / "checkpoints").values():
        if not (checkpoint / MANIFEST_FILE).is_file():
            _remove(checkpoint)


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint; of one that is a link to a folder elsewhere, the link."""
    if checkpoint.is_symlink():
        checkpoint.unlink()
    else:
        shutil.rmtree(checkpoint)


def find_good_checkpoint(folder: Path, recipe: str, tell: Callable[[str], None]) -> Path:
    """The last checkpoint of a run folder that is what was written, for a recipe of this digest. `tell` is told of
    each that is passed over. Raises RunError where there is none, or where the last one belongs to another recipe."""
    for _, checkpoint in sorted(list_checkpoints(folder).items(), reverse=True):
        manifest = read_manifest(checkpoint)
        damage = (
            "its manifest cannot be read" if manifest is None else find_damage(checkpoint, manifest.files)
        )
        if manifest is not None and not damage:
            if manifest.origin.recipe != recipe:
                raise RunError(
                    f"{checkpoint} was written by another recipe than that of {folder.name}; remove it"
                )
            return checkpoint
        tell(f"{checkpoint.name} is passed over: {damage}")
    raise RunError(
        f"{folder} holds no checkpoint to resume from, with optimizer and random states; start the run anew without "
        "--resume"
    )


def read_manifest(checkpoint: Path) -> Manifest | None:
    """The manifest of a checkpoint; None where it is not what `commit` writes."""
    try:
        content = json.loads((checkpoint / MANIFEST_FILE).read_text(encoding="utf-8"))
        return Manifest(Origin(**content["origin"]), dict(content["files"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def find_damage(checkpoint: Path, files: dict[str, str]) -> str:
    """The first file of a checkpoint that is not what was written, and why; empty where all are.

    Whoever can write into the folder can write a manifest too: no name in it leads out, no link is followed, and what
    it does not list is refused, since transformers reads some files for being there.
    """
    there = dict(_list_files(checkpoint))
    for name, digest in files.items():
        if name not in there:
            return f"{name} is missing"
        if there[name].is_symlink() or not there[name].is_file():
            return f"{name} is a link, and no file"
        if digest_file(there[name]) != digest:
            return f"{name} is not what was written"
    unknown = min((name for name in there.keys() - files.keys() if not _is_hidden(name)), default=None)
    return "" if unknown is None else f"{unknown} is none of its files"


def _list_files(checkpoint: Path) -> Iterator[tuple[str, Path]]:
    """What is below a checkpoint's folder but its manifest, folders left out, by its path in there."""
    for one in sorted(checkpoint.rglob("*")):
        if one != checkpoint / MANIFEST_FILE and (one.is_symlink() or not one.is_dir()):
            yield one.relative_to(checkpoint).as_posix(), one


def _is_hidden(name: str) -> bool:
    """Whether a desktop or a network disk may have left it."""
    return any(part.startswith(".") for part in Path(name).parts)


def require_rows(checkpoint: Path, rows: str) -> None:
    """Raises RunError where a checkpoint was written while other rows were trained on: a resumed run goes on at a
    place in the data, and the data is to be the same."""
    manifest = read_manifest(checkpoint)
    if manifest is not None and manifest.origin.rows != rows:
        raise RunError(
            f"the rows are not those that {checkpoint.parent.parent.name} was training on: a file of data.train, the "
            "tokenizer or the chat template has changed since. Put it back, or start anew without --resume"
        )


def commit(checkpoint: Path, origin: Origin) -> None:
    """Put every file of a checkpoint onto the disk, and then its manifest, which is there whole or not at all."""
    files = {}
    for name, file in _list_files(checkpoint):
        _sync(file)
        files[name] = digest_file(file)
    draft = checkpoint / f"{MANIFEST_FILE}.tmp"
    draft.write_text(json.dumps(asdict(Manifest(origin, files)), indent=1), encoding="utf-8")
    _sync(draft)
    draft.replace(checkpoint / MANIFEST_FILE)
    _sync(checkpoint)


def _sync(path: Path) -> None:
    """Have the disk hold what was written to a file, or which names a folder has."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_callback(trainer: Trainer, origin: Origin) -> TrainerCallback:
    """A callback that commits each checkpoint, and then keeps as many as `training.save_total_limit` says.

    When training begins, checkpoints of later steps are removed: they are damaged, or of a course that was given up.
    """
    from transformers import TrainerCallback
    from transformers.trainer_utils import rotate_checkpoints

    class CommitCheckpoints(TrainerCallback):  # type: ignore[misc, unused-ignore]  # transformers is untyped here
        limit: int | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            # The trainer removes old checkpoints before it calls back; here a new one is proved first.
            self.limit, args.save_total_limit = args.save_total_limit, None
            if args.should_save:
                for step, folder in _list_folders(Path(args.output_dir)).items():
                    if step > state.global_step:
                        _remove(folder)
            if state.best_model_checkpoint is not None:
                # A resumed state has it as a path of the folder, and maybe the machine, that it was written in.
                own = Path(args.output_dir) / Path(state.best_model_checkpoint).name
                state.best_model_checkpoint = str(own)

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            trainer.accelerator.wait_for_everyone()  # each process writes its own random state
            if args.should_save:
                commit(Path(args.output_dir) / f"checkpoint-{state.global_step}", origin)
                rotate_checkpoints(args.output_dir, self.limit, state.best_model_checkpoint)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            args.save_total_limit = self.limit
            if args.should_save and self.limit == 1 and state.best_model_checkpoint is not None:
                for folder in _list_folders(Path(args.output_dir)).values():
                    if folder != Path(state.best_model_checkpoint):
                        _remove(folder)

    return CommitCheckpoints()
