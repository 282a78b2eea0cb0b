"""How much of a run MLflow already holds.

It is `delivered.json` in the run folder, rewritten whole at each change by the holder of `delivered.lock`:
the courier of the run, or `ftrun sync`. So the process that trains and the one that delivers never write the
same file, and neither waits for the other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ftrun.runner.tracking.journal import whole_size
from ftrun.runner.tracking.ledger import JOURNALS, Ledger, Status, Upload, read_ledger, write_document
from ftrun.schemas.errors import TrackingError

DELIVERED_FILE = "delivered.json"
DELIVERED_LOCK = "delivered.lock"
SCHEMA = 1
MAX_REFUSED = 20
PARENT_TAG = "mlflow.parentRunId"


@dataclass(frozen=True)
class Delivered:
    """What the store at `uri`, which is without credentials, holds of the run with this `key`.

    `described` is the session whose parameters and data sets are sent, `journals` counts bytes.
    """

    key: str
    uri: str
    experiment_id: str = ""
    run_id: str = ""
    described: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    uploads: tuple[Upload, ...] = ()
    journals: Mapping[str, int] = field(default_factory=dict)
    status: Status = "RUNNING"
    refused: tuple[str, ...] = ()  # what the store will never take
    problem: str = ""  # why the last attempt failed, empty when it did not


class Record:
    """Both sides of a run folder, as the holder of `delivered.lock` sees them."""

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        self.folder = folder
        self.ledger = ledger
        self.delivered = read_delivered(folder, ledger)

    def change(self, **fields: Any) -> None:
        """Note what was sent."""
        after = replace(self.delivered, **fields)
        if after != self.delivered:
            self.delivered = after
            write_document(self.folder / DELIVERED_FILE, {"schema": SCHEMA, **asdict(after)})

    def refuse(self, reason: str) -> None:
        """Note one more thing that the store will never take; the first twenty are kept."""
        refused = self.delivered.refused
        if reason not in refused and len(refused) < MAX_REFUSED:
            self.change(refused=(*refused, reason))

    def add_upload(self, upload: Upload) -> None:
        """Note an upload; one that changed while it was being sent is another and stays unsent."""
        others = [
            one for one in self.delivered.uploads if (one.path, one.under) != (upload.path, upload.under)
        ]
        self.change(uploads=(*others, upload))


def read_delivered(folder: Path, ledger: Ledger) -> Delivered:
    """What the ledger's store holds: nothing, when the file is about another store or another run.

    Raises TrackingError when the file is from another version or damaged.
    """
    path = folder / DELIVERED_FILE
    nothing = Delivered(ledger.key, ledger.uri)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document.pop("schema") != SCHEMA:
            raise ValueError("another schema")
        document["uploads"] = tuple(Upload(**item) for item in document["uploads"])
        document["refused"] = tuple(document["refused"])
        found = Delivered(**document)
    except FileNotFoundError:
        return nothing
    except (ValueError, KeyError, TypeError) as error:
        raise TrackingError(
            f"{path} cannot be read ({error}). Delete it: sending everything again changes nothing."
        ) from error
    return found if (found.key, found.uri) == (ledger.key, ledger.uri) else nothing


def find_parent(folder: Path, ledger: Ledger) -> str | None:
    """MLflow's id of the pipeline's run; empty while it has none, None where the store will have no such run."""
    if not ledger.parent:
        return None
    above = folder / ledger.parent
    parent = read_ledger(above)
    if parent is None or parent.uri != ledger.uri:
        return None
    return read_delivered(above, parent).run_id


def wanted_tags(folder: Path, ledger: Ledger) -> dict[str, str]:
    """The tags that MLflow shall hold, that of the pipeline's run included as soon as it is known."""
    parent = find_parent(folder, ledger)
    return {**ledger.tags, PARENT_TAG: parent} if parent else dict(ledger.tags)


def is_complete(folder: Path, ledger: Ledger, delivered: Delivered) -> bool:
    """Whether MLflow holds everything, the journals to their last whole line included."""
    return (
        bool(delivered.run_id)
        and find_parent(folder, ledger) != ""
        and delivered.described == ledger.session
        and delivered.tags == wanted_tags(folder, ledger)
        and delivered.status == ledger.status
        and set(ledger.uploads) <= set(delivered.uploads)
        and all(delivered.journals.get(file, 0) >= whole_size(folder / file) for file in JOURNALS)
    )
