"""`lock.json`: what a second person on a second machine needs to repeat a run, and to know that it is the same.

    schema      1
    name, method, folder        of the run
    recipe      digest; `merged`: as written, with bases and `--set`; `place`: its folder; its files and their digests
    choices     what ftrun chose for the device, the model and the data: key, value, reason
    ignored     checks that were told to stop nothing, with the reasons
    data, tokens, models, tokenizer, chat_template, code, weights, seeds      by content (`ftrun.runner.record.inputs`)
    segments    one for the start, and one each time that the run was resumed: command, time, checkpoint, which of
                the parts above had changed, code, environment, hardware

Everything is plain JSON. Lock and lock are compared by `ftrun.runner.record.drift`.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ftrun.checks.machine import Machine
from ftrun.checks.report import Report
from ftrun.checks.stages import AtModel
from ftrun.runner.record.digests import digest_text
from ftrun.runner.record.inputs import describe_inputs
from ftrun.runner.record.machine import describe_code, describe_environment, describe_hardware
from ftrun.runner.tracking.journal import now_ms
from ftrun.runner.tracking.secrets import SECRET, redact, redact_text
from ftrun.runner.weights import digest_file
from ftrun.schemas.errors import RunError
from ftrun.schemas.load import RecipeFile
from ftrun.schemas.resolve import digest

LOCK_FILE = "lock.json"
SCHEMA = 1
INPUTS = ("data", "tokens", "models", "tokenizer", "chat_template", "code", "weights", "seeds")

Lock = Mapping[str, Any]


def make_lock(at: AtModel, report: Report, folder: Path) -> dict[str, Any]:
    """The lock of a run that begins."""
    return {
        "schema": SCHEMA,
        "name": at.recipe.name,
        "method": at.recipe.method,
        "folder": str(folder.absolute()),
        "recipe": {
            "digest": digest(at.recipe),
            "place": str(at.file.folder.absolute()),
            "merged": redact_tree(at.file.recipe.model_dump(mode="json")),
            "files": {name: digest_text(text) for name, text in name_documents(at.file).items()},
        },
        "choices": [asdict(one) for one in at.choices],
        "ignored": {one.id: one.ignored for one in report.findings if one.ignored is not None},
        **describe_inputs(at),
        "segments": [],
    }


def make_segment(code: Path, machine: Machine, checkpoint: Path | None) -> dict[str, Any]:
    """What computes a run from now on; `code` is the folder of its recipe."""
    return {
        "command": redact_text(shlex.join(sys.argv)),
        "time": now_ms(),
        "checkpoint": None if checkpoint is None else checkpoint.name,
        "code": describe_code(code),
        "environment": describe_environment(),
        "hardware": describe_hardware(machine),
    }


def extend_lock(before: Lock, lock: Lock, segment: Lock) -> dict[str, Any]:
    """The lock of a resumed run, with one segment more, which names what the run is no longer made from."""
    changed = [part for part in INPUTS if before[part] != lock[part]]
    return {**before, "segments": [*before["segments"], {**segment, "changed": changed}]}


def name_documents(file: RecipeFile) -> dict[str, str]:
    """The texts of a recipe and of all that it extends, without secrets, each by its place in the record."""
    recipe, *bases = file.documents
    named = {f"recipe/{number}-{base.path.name}": base.text for number, base in enumerate(bases, 1)}
    return {name: redact_text(text) for name, text in {"recipe.yaml": recipe.text, **named}.items()}


def digest_lock(folder: Path) -> str:
    """SHA-256 of the lock in a run folder."""
    return digest_file(folder / LOCK_FILE)


def read_lock(folder: Path) -> dict[str, Any] | None:
    """The lock of a run folder, none where it has none. Raises RunError where it cannot be read."""
    path = folder / LOCK_FILE
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    if content.get("schema") != SCHEMA:
        raise RunError(f"{path} was written by another version of ftrun (schema {content.get('schema')})")
    return content


def read_choices(folder: Path) -> list[dict[str, Any]]:
    """What ftrun chose for the run of a folder; nothing where an earlier ftrun began it. Raises RunError."""
    return list((read_lock(folder) or {}).get("choices", ()))


def redact_tree(value: Any, name: str = "") -> Any:
    """Plain data without secrets, each text judged by the key that it stands under."""
    if isinstance(value, dict):
        return {key: redact_tree(one, str(key)) for key, one in value.items()}
    if isinstance(value, list):
        return [redact_tree(one, name) for one in value]
    return redact(name, value) if isinstance(value, str) else value


def hides_secrets(lock: Lock) -> bool:
    """Whether a secret was taken out of the recipe, so that it cannot be run as it stands."""
    merged = lock["recipe"]["merged"]
    return SECRET in json.dumps({key: value for key, value in merged.items() if key != "tracking"})
