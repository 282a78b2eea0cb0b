"""Digests of what a run reads and makes: files, whole folders of a model, the weights that train.

Digests of large files are kept in `ftrun/digests.json` under the user's cache folder, by path, size and time of the
last change, so that looking again at many gigabytes takes no time.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftrun.runner.launching.sharding import make_whole
from ftrun.runner.weights import NOT_THE_MODEL, digest_file
from ftrun.schemas.cache import cache_folder

if TYPE_CHECKING:
    from torch import Tensor, nn

KEPT_FROM = 1 << 20  # bytes; a smaller file is read sooner than the list of digests
SETTLED_NS = 2_000_000_000  # a file system may not tell two changes within so many nanoseconds apart

Facts = dict[str, Any]


def describe_files(files: Iterable[Path], root: Path) -> dict[str, Facts]:
    """`bytes` and `sha256` of each file, under its path as seen from `root`."""
    cache = _read_cache()
    before = dict(cache)
    found = {
        file.relative_to(root).as_posix(): {"bytes": file.stat().st_size, "sha256": _digest(file, cache)}
        for file in files
    }
    if cache != before:
        _write_cache(cache)
    return found


def describe_source(path: Path) -> dict[str, Facts]:
    """The files of a data source: a file alone, or those below a folder."""
    if path.is_file():
        return describe_files([path], path.parent)
    return describe_files(sorted(one for one in path.rglob("*") if one.is_file()), path)


def describe_model(folder: Path) -> dict[str, Facts]:
    """The files of a model folder that the model depends on. PEFT's settings are digested without the place of the
    base, which is a path of one machine, and with their lists in order."""
    files = sorted(one for one in folder.rglob("*") if one.is_file() and one.name not in NOT_THE_MODEL)
    found = describe_files((one for one in files if not _is_hidden(one, folder)), folder)
    for name, facts in found.items():
        if Path(name).name == "adapter_config.json":
            facts["sha256"] = _digest_settings(folder / name)
    return found


def digest_weights(folder: Path) -> str:
    """SHA-256 over the names and contents of a model folder's weights alone: equal wherever its settings say that it
    lies. Empty where there are none."""
    files = [one for one in sorted(folder.rglob("*")) if one.suffix in (".safetensors", ".bin")]
    lines = [
        f"{file.relative_to(folder).as_posix()} {digest_file(file)}\n"
        for file in files
        if file.name not in NOT_THE_MODEL
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest() if lines else ""


def digest_trainable(model: nn.Module) -> str:
    """SHA-256 over name, type, shape and bytes of each parameter that trains."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
            digest.update(_bytes_of(weight))
    return digest.hexdigest()


def digest_document(document: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON document, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def digest_text(text: str) -> str:
    """SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def _bytes_of(weight: Tensor) -> Any:
    """The weight's memory as an array of bytes, which NumPy has for every type of torch."""
    import torch

    return make_whole(weight.detach()).cpu().contiguous().flatten().view(torch.uint8).numpy()


def _is_hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _digest_settings(path: Path) -> str:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return digest_file(path)
    settings.pop("base_model_name_or_path", None)
    ordered = {key: sorted(one, key=str) if isinstance(one, list) else one for key, one in settings.items()}
    return digest_document(ordered)


def _digest(file: Path, cache: dict[str, list[Any]]) -> str:
    """The file's digest, from `cache` where it holds one of this size and time, else added to it."""
    now = file.stat()
    mark = [now.st_size, now.st_mtime_ns]
    key = str(file.resolve())
    if key in cache and cache[key][:2] == mark:
        return str(cache[key][2])
    found = digest_file(file)
    if now.st_size >= KEPT_FROM and time.time_ns() - now.st_mtime_ns > SETTLED_NS:
        cache[key] = [*mark, found]
    return found


def _read_cache() -> dict[str, list[Any]]:
    try:
        content = json.loads((cache_folder() / "digests.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: entry for key, entry in content.items() if isinstance(entry, list) and len(entry) == 3}


def _write_cache(cache: Mapping[str, list[Any]]) -> None:
    """Keep the digests of files that are still there; a cache folder that cannot be written is none."""
    path = cache_folder() / "digests.json"
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps({key: one for key, one in cache.items() if Path(key).exists()}))
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
