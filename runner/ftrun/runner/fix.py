"""`--fix`: the patches that findings carry, written into the recipe file."""

from __future__ import annotations

import codecs
import difflib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from ftrun.checks.finding import Finding, Patch
from ftrun.checks.report import Report
from ftrun.schemas.document import Document
from ftrun.schemas.errors import FtrunError
from ftrun.schemas.layers import TEAM
from ftrun.schemas.load import RecipeFile
from ftrun.schemas.notation import as_yaml
from ftrun.schemas.overrides import FILE as COMMAND_LINE
from ftrun.schemas.patching import patch_text

LONGEST = 60  # characters of a value on the line that tells of its fix


def fix_recipe(report: Report, file: RecipeFile, *, out: TextIO) -> bool:
    """Show what the patches of a recipe's findings change, write it into the file, and tell each on a line of `out`.

    What stands in a file that the recipe extends, comes from `--set` or cannot be changed by itself is told
    and left. Returns whether the file changed. Raises FtrunError where the file cannot be replaced.
    """
    document = file.documents[0]
    text, lines = document.text, []
    for finding, patch in _patches(report):
        try:
            _refuse_elsewhere(finding, patch, file)
            patched = patch_text(text, [(patch.key, patch.value)])
        except FtrunError as error:
            wanted = f"{patch.key} → {_shown(patch.value)}"
            lines.append(f"not fixed {document.path}: {wanted} ({finding.id}): {error}\n")
            continue
        if patched != text:
            lines.append(f"fixed {document.path}: {_change(document, patch)} ({finding.id})\n")
            text = patched
    if text != document.text:
        out.writelines(_compare(document, text))
        replace_text(document.path, document.text, text)
    out.writelines(lines)
    return text != document.text


def _compare(document: Document, text: str) -> Iterator[str]:
    """The lines of a diff from the file as it is to `text`."""
    before, after = document.text.splitlines(), text.splitlines()
    for line in difflib.unified_diff(
        before, after, str(document.path), f"{document.path} (fixed)", "", "", 1, ""
    ):
        yield f"{line}\n"


def replace_text(path: Path, before: str, after: str) -> None:
    """Replace the text of a file whole: a reader sees the one or the other. A link stays a link, permissions
    and a byte-order mark stay as well. Raises FtrunError where the file holds something other than `before`
    by now, or cannot be written."""
    real = path.resolve()
    try:
        content = real.read_bytes() if real.is_file() else b""
        if content.decode("utf-8-sig", errors="replace") != before:
            raise FtrunError(f"{path} changed while it was checked, so nothing was fixed. Run it again.")
        mark = codecs.BOM_UTF8 if content.startswith(codecs.BOM_UTF8) else b""
        with tempfile.TemporaryDirectory(prefix=".ftrun-", dir=real.parent) as folder:
            fresh = Path(folder, real.name)
            fresh.write_bytes(mark + after.encode())
            shutil.copymode(real, fresh)
            fresh.replace(real)
    except OSError as error:
        reason = error.strerror or error
        raise FtrunError(
            f"{path} cannot be written: {reason}. Correct the permissions, or edit it by hand."
        ) from error


def _patches(report: Report) -> Iterator[tuple[Finding, Patch]]:
    """The patches of findings that are not ignored; of several for one key, that of the gravest finding."""
    taken: set[str] = set()
    for finding in report.findings:
        patch = finding.patch
        if patch is None or finding.ignored is not None or patch.key in taken:
            continue
        taken.add(patch.key)
        yield finding, patch


def _refuse_elsewhere(finding: Finding, patch: Patch, file: RecipeFile) -> None:
    """Raises FtrunError for what is not written in the recipe's own file, or would be overruled by what lies
    over it."""
    if COMMAND_LINE in (finding.where.file, file.where(patch.key).file):
        raise FtrunError("it comes from --set; change it there.")
    own = {str(document.path) for document in file.documents}
    # What a base of a catalogue says can be overruled here, as what any base says.
    over = {
        name for where in file.origins.values() if (name := where.file or "") and not name.startswith(TEAM)
    } - own
    for where in (finding.where, file.where(patch.key)):
        if where.file in over:
            raise FtrunError(f"it is set in {where.file}:{where.line}; change it there.")
    stands = finding.where.file or ""
    if stands.startswith(TEAM) or stands in {str(document.path) for document in file.documents[1:]}:
        raise FtrunError(f"it stands in {finding.where.file}:{finding.where.line}; change it there.")


def _change(document: Document, patch: Patch) -> str:
    """What a patch changes: `training.max_length 64 → 256`."""
    value: Any = document.tree
    for name in patch.key.split("."):
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list):
            value = value[int(name)]
        else:
            return f"{patch.key} {_shown(patch.value)} added"
    return f"{patch.key} {_shown(value)} → {_shown(patch.value)}"


def _shown(value: object) -> str:
    text = as_yaml(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
