"""Where a result is: a run's name, a folder or a hub id becomes what `from_pretrained` is given."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftrun.schemas.errors import ModelError, TrackingError, first_line

CONFIG, ADAPTER = "config.json", "adapter_config.json"
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "adapter_model.bin")
RECORD = "recipe.resolved.yaml"
OUTPUT = Path("runs")
"""The output folder of a recipe that names none, where its store lies."""


def locate(reference: str, uri: str | None) -> str:
    """The folder of the model that `reference` names, or a hub id as it stands.

    `reference` is `tiny`, `run:` and a run, a folder, a hub id, or a run's name, id or start of an id alone; runs
    are looked up in the store at `uri` (as `resolve_uri` reads it). Raises ModelError or TrackingError.
    """
    if reference == "tiny":
        from ftrun.runner import tiny

        return str(tiny.locate())
    if reference.startswith("run:"):
        return str(_model_inside(_look_up(reference.removeprefix("run:"), uri)))
    local = Path(reference).expanduser()
    if local.is_dir():
        return str(_model_inside(local.absolute()))
    if local.exists():
        raise ModelError(f"{reference} is a file; name the folder that it lies in")
    if reference.startswith((".", "/", "~")) or ("/" in reference and local.parent.is_dir()):
        raise ModelError(f"there is no folder {local}; name a run, a run folder, a model folder or a hub id")
    if "/" in reference:
        return _known_to_hub(reference, f"{reference} is no folder here")
    try:
        return str(_model_inside(_look_up(reference, uri)))
    except TrackingError as error:
        if _is_cached(reference):
            return reference
        raise TrackingError(f"{error}; name a run, a folder, or a hub id as OWNER/NAME") from error


def _look_up(name: str, uri: str | None) -> Path:
    """The model folder of a run. A SQLite store that is absent is not made."""
    from ftrun.runner.tracking.lookup import find_model, require_store
    from ftrun.runner.tracking.store import resolve_uri

    place = resolve_uri(uri, OUTPUT)
    require_store(name, place)
    return find_model(name, place)


def _is_cached(reference: str) -> bool:
    """Whether a hub model of the old kind, whose id is one word (`gpt2`), was used on this machine before.

    Such a word is a run's name far more often, so the hub itself is not asked: without a network, a name that is
    mistyped would take a minute to be refused.
    """
    from transformers.utils import cached_file

    try:
        found = cached_file(
            reference, CONFIG, local_files_only=True, _raise_exceptions_for_missing_entries=False
        )
    except (OSError, ValueError):
        return False
    return found is not None


def _known_to_hub(reference: str, otherwise: str) -> str:
    from transformers import AutoConfig

    if read_adapter(reference, None) is not None:
        return reference
    try:
        AutoConfig.from_pretrained(reference)
    except Exception as error:  # the network, the hub and the config fail in many ways
        if "trust_remote_code" in str(error):
            return reference
        raise ModelError(
            f"{otherwise}, and the hub has no model {reference} ({first_line(error)}); "
            "name a run, a run folder, a model folder or a hub id"
        ) from error
    return reference


def _model_inside(folder: Path) -> Path:
    """The folder itself where it holds a model, or `model/` in a run folder."""
    for place in (folder, folder / "model"):
        if any((place / name).is_file() for name in (CONFIG, ADAPTER)):
            if not any(file for pattern in WEIGHTS for file in place.glob(pattern)):
                raise ModelError(f"{place} holds no weights (model.safetensors or adapter_model.safetensors)")
            return place
    if (folder / RECORD).is_file():
        raise ModelError(
            f"{folder} is a run without a model, so its training has not ended; name a folder in "
            f"{folder / 'checkpoints'}, or go on with `ftrun RECIPE --resume`"
        )
    raise ModelError(
        f"{folder} holds no model: there is neither {CONFIG} nor {ADAPTER} in it, nor in a folder `model` below"
    )


def read_adapter(source: str, revision: str | None) -> Mapping[str, Any] | None:
    """PEFT's config of an adapter folder or hub id, None where the source is no adapter.

    Raises ModelError where the config is there and cannot be read.
    """
    from transformers.utils import find_adapter_config_file

    if Path(source).is_dir():
        found = Path(source, ADAPTER) if Path(source, ADAPTER).is_file() else None
    else:
        try:
            found = find_adapter_config_file(source, revision=revision)
        except (OSError, ValueError):  # nothing of this name, or no hub: told when the config is looked for
            found = None
    if found is None:
        return None
    try:
        content = json.loads(Path(found).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{found} cannot be read: {first_line(error)}") from error
    return content if isinstance(content, dict) else {}
