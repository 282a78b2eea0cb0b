"""Where ftrun keeps what it can make or fetch again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`ftrun` under `$XDG_CACHE_HOME`, or `~/.cache` where that is unset or relative."""
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (chosen if chosen.is_absolute() else Path.home() / ".cache") / "ftrun"
