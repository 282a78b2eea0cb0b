"""The commit that a run was started from, as the tags that MLflow shows."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from ftrun.runner.tracking.secrets import redact_text

SECONDS = 2.0  # a git that hangs (a network disk, a lock) must not hold a run up
PATCH_SECONDS = 20.0  # a diff of many megabytes


def describe_git(folder: Path) -> dict[str, str]:
    """`mlflow.source.git.commit`, `.branch`, `.repoURL` and `.dirty` of the repository around `folder`.

    Without git, without a repository or on a timeout the tag is absent; nothing is raised. Dirty means that
    a tracked file differs from the commit; untracked files, run folders among them, do not count.
    """
    commit = _ask_git(folder, "rev-parse", "HEAD")
    if not commit:
        return {}
    branch = _ask_git(folder, "rev-parse", "--abbrev-ref", "HEAD")
    url = _ask_git(folder, "config", "--get", "remote.origin.url")
    changes = _ask_git(folder, "status", "--porcelain", "--untracked-files=no")
    tags = {
        "mlflow.source.git.commit": commit,
        "mlflow.source.git.branch": branch,
        "mlflow.source.git.repoURL": redact_text(url) if url else url,
        "mlflow.source.git.dirty": None if changes is None else str(bool(changes)).lower(),
    }
    return {key: value for key, value in tags.items() if value}


def read_patch(folder: Path) -> bytes | None:
    """What tracked files of the repository around `folder` have that the commit has not, as `git apply` takes it."""
    return _run_git(folder, "diff", "HEAD", "--binary", "--no-color", "--no-ext-diff", seconds=PATCH_SECONDS)


def _ask_git(folder: Path, *words: str) -> str | None:
    """What git prints, None when it fails."""
    done = _run_git(folder, *words, seconds=SECONDS)
    return None if done is None else done.decode(errors="replace").strip()


def _run_git(folder: Path, *words: str, seconds: float) -> bytes | None:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            check=True,
            timeout=seconds,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
