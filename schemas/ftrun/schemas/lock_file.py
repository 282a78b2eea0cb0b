"""`recipes.lock`: the digest of each base from a catalogue that the recipes beside it extend."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from ftrun.schemas.bundle import BundleError

LOCK_FILE = "recipes.lock"
_SHA256 = re.compile("sha256:([0-9a-f]{64})")


def read_lock(path: Path) -> Mapping[str, str]:
    """The digests of a `recipes.lock` by address; none where there is no such file. Raises BundleError where it
    cannot be read."""
    fix = f"Write it anew: remove {path}, and run `ftrun recipes lock RECIPE`."
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        recipes = content["recipes"]
        if content["schema"] != 1:
            raise ValueError(f"it is of schema {content['schema']}")
        return {str(address): _SHA256.fullmatch(digest)[1] for address, digest in recipes.items()}  # type: ignore[index]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read: {error}.", fix) from None


def write_lock(path: Path, locked: Mapping[str, str]) -> None:
    """Write a `recipes.lock`, whole or not at all."""
    recipes = {address: f"sha256:{digest}" for address, digest in sorted(locked.items())}
    scratch = path.with_name(f".{path.name}-{os.getpid()}")
    scratch.write_text(json.dumps({"schema": 1, "recipes": recipes}, indent=2) + "\n", encoding="utf-8")
    scratch.replace(path)
