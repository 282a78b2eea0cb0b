"""`ftrun reproduce --install`: the recorded packages in an environment of their own, and the repetition in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlparse

from rich.console import Console

from ftrun.runner.record.digests import digest_text
from ftrun.schemas.cache import cache_folder
from ftrun.schemas.errors import RunError

DONE_FILE = "ftrun-installed"


def run_installed(requirements: Path, words: Sequence[str], err: Console) -> int:
    """Install the packages that a record names, unless they were before, and run `ftrun` with `words` in them.

    Which index is asked is pip's own affair: its configuration and environment. Raises RunError where they cannot be
    installed.
    """
    text = requirements.read_text(encoding="utf-8")
    folder = cache_folder() / "environments" / digest_text(text)[:16]
    if not (folder / DONE_FILE).is_file():
        err.print(f"installing the packages of the record into {folder}", style="dim")
        shutil.rmtree(folder, ignore_errors=True)
        for command in list_commands(requirements, folder, find_python(text), find_source(text)):
            done = subprocess.run(command, stdout=sys.stderr, check=False)
            if done.returncode:
                raise RunError(
                    f"the packages of the record cannot be installed: {' '.join(command)} ended with "
                    f"{done.returncode}{_hint(text)}"
                )
        (folder / DONE_FILE).touch()
    return subprocess.run([str(_python_in(folder)), "-m", "ftrun", *words], check=False).returncode


def _hint(requirements: str) -> str:
    """Where builds for one kind of machine are, which are no part of the index that pip asks by itself."""
    local = re.findall(r"^(\S+)==\S+?\+(\S+)$", requirements, re.MULTILINE)
    if not local:
        return ""
    named = ", ".join(f"{name} (+{build})" for name, build in local)
    return (
        f". {named}: such builds are in an index of their own, that of torch is named on pytorch.org/get-started. Say "
        "which with PIP_EXTRA_INDEX_URL, or name a folder of wheels with PIP_FIND_LINKS"
    )


def list_commands(requirements: Path, folder: Path, python: str, source: Path | None) -> list[list[str]]:
    """What makes the environment in `folder`; `source` is where ftrun itself is from where no index has it. What was
    installed together may not go together by what the packages say, so pip is told to resolve nothing."""
    pip = [str(_python_in(folder)), "-m", "pip", "install", "--disable-pip-version-check"]
    commands = [[python, "-m", "venv", str(folder)], [*pip, "--no-deps", "-r", str(requirements)]]
    return commands if source is None else [*commands, [*pip, "--no-deps", str(source)]]


def find_python(requirements: str) -> str:
    """The Python of the record's version, if it is here; else this one, and the drift tells."""
    found = re.match(r"# Python (\d+\.\d+)", requirements)
    named = None if found is None else shutil.which(f"python{found[1]}")
    return named or sys.executable


def find_source(requirements: str) -> Path | None:
    """The folder that this ftrun was installed from, where the record's was from a folder too, which no index has.

    Raises RunError where this one is not from a folder.
    """
    if not re.search(r"^# ftrun==", requirements, re.MULTILINE):
        return None
    direct = json.loads(metadata.distribution("ftrun").read_text("direct_url.json") or "{}")
    if "dir_info" not in direct:
        raise RunError(
            "the run was made by an ftrun that was installed from a folder, which cannot be installed by name; "
            "install that one, and repeat the run without --install"
        )
    return Path(unquote(urlparse(direct["url"]).path))


def _python_in(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
