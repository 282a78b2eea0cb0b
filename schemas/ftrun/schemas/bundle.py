"""A bundle: a recipe with the files it uses, as a team shares it, and the digest that names its content.

A bundle comes from a stranger. Its manifest is judged before anything else of it is read, no name in it leads
out of its folder, and nothing of it is taken for true that its digest does not prove.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from ftrun.schemas.errors import FtrunError
from ftrun.schemas.section import Section
from ftrun.schemas.sections import NAME

MANIFEST, RECIPE = "bundle.json", "recipe.yaml"
PREFIX = "team:"
BASE = "base"
"""What stands for the method of a part of a recipe, which is there to be extended."""

SCHEMA = 1
MAX_FILE_BYTES = 10_000_000
"""Larger data is left out of a bundle, and named in it by its digest."""

MAX_BYTES = 50_000_000
MAX_FILES = 100
MAX_MANIFEST_BYTES = 200_000
DATA_ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".parquet", ".arrow")
TEMPLATE_ENDINGS = (".jinja", ".jinja2", ".j2", ".txt")
CODE_ENDING = ".py"
RECIPE_ENDINGS = (".yaml", ".yml")
ENDINGS = (*DATA_ENDINGS, *TEMPLATE_ENDINGS, CODE_ENDING, *RECIPE_ENDINGS)

# No part of a name begins with a dot (`..`, `.git`, `.vscode`), ends as Windows does not, or holds `:` or `\`.
_PART = re.compile(r"\w(?:[\w .+=@,()\-]{0,98}[\w+=@,()\-])?")
_WINDOWS = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE)
_ADDRESS = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,99})(?:@(?P<pin>.*))?")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_DIGEST = re.compile(r"(?:sha256:)?(?P<digest>[0-9a-f]{12,64})")

Note = Annotated[str, Field(max_length=500)]


class BundleError(FtrunError):
    """A bundle, its address or its catalogue cannot be used. `fix` is what to do."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


class Entry(Section):
    """A file of a bundle."""

    name: str = Field(max_length=300)
    """Its path within the bundle, with `/`."""

    bytes: int = Field(ge=0)
    """Its size."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Its digest."""

    stored: bool = True
    """Whether it is in the bundle. Data that is too large is only named."""


class Manifest(Section):
    """What `bundle.json` says."""

    version_of_schema: Literal[1] = Field(alias="schema")
    """Of this file's form."""

    name: str = Field(pattern=NAME)
    """What the recipe is called in a catalogue."""

    version: int = Field(ge=1, lt=10**9)
    """Its version; the content of one never changes."""

    method: Literal["sft", "reward", "dpo", "ppo", "pipeline", "base"]
    """The recipe's method; that it is a pipeline, or a base that is no whole recipe."""

    ftrun: str = Field(max_length=100)
    """The version of ftrun that made the bundle."""

    files: list[Entry] = Field(min_length=1, max_length=MAX_FILES)
    """Every file, by name in order."""

    digest: str = Field(pattern="^[0-9a-f]{64}$")
    """`digest_entries` of the files. It covers their content, and not what this manifest says beside."""

    provenance: dict[Note, Note] = Field(default_factory=dict, max_length=20)
    """Who made it from what: author, git commit, source run. Told by the author, proven by nothing."""

    @property
    def address(self) -> str:
        """`team:NAME@VERSION`."""
        return f"{PREFIX}{self.name}@{self.version}"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every byte was compared with its digest. `files` holds those that are stored, by name."""

    manifest: Manifest
    files: Mapping[str, bytes]

    @property
    def content(self) -> bytes:
        """Its `bundle.json`."""
        return write_manifest(self.manifest)


@dataclass(frozen=True)
class Address:
    """`team:NAME@VERSION` or `team:NAME@sha256:DIGEST`: the version is None where a digest is given, the digest, or
    its first 12 or more characters, is empty where a version is, and both are where neither is."""

    name: str
    version: int | None
    digest: str = ""

    def __str__(self) -> str:
        pin = f"@sha256:{self.digest}" if self.digest else "" if self.version is None else f"@{self.version}"
        return f"{PREFIX}{self.name}{pin}"


def read_address(text: str) -> Address:
    """Read `NAME`, `NAME@VERSION` or `NAME@DIGEST`, with or without `team:`. Raises BundleError for anything else."""
    found = _ADDRESS.fullmatch(text.removeprefix(PREFIX))
    if found and found["pin"] is None:
        return Address(found["name"], None)
    if found and _VERSION.fullmatch(found["pin"]):
        return Address(found["name"], int(found["pin"]))
    if found and (digest := _DIGEST.fullmatch(found["pin"])):
        return Address(found["name"], None, digest["digest"])
    raise BundleError(
        f"{shown(text)} is no address of a recipe.",
        f"Write `{PREFIX}NAME@VERSION`, such as `{PREFIX}polite@3`, or `{PREFIX}NAME@sha256:` and the digest, or "
        "12 or more of its characters.",
    )


def digest_entries(files: Iterable[Entry]) -> str:
    """SHA-256 over the files as canonical JSON: sorted by name, each with name, size, digest and whether it is
    stored."""
    listed = sorted((one.model_dump() for one in files), key=lambda one: str(one["name"]))
    return hashlib.sha256(json.dumps(listed, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write_manifest(manifest: Manifest) -> bytes:
    """The text of `bundle.json`."""
    content = manifest.model_dump(by_alias=True)
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def read_manifest(content: bytes, place: str) -> Manifest:
    """Read a `bundle.json`, which lies at `place`. Raises BundleError for what is none, and for every name in it
    that is unfit for a file."""
    try:
        if len(content) > MAX_MANIFEST_BYTES:
            raise ValueError(f"it is larger than {MAX_MANIFEST_BYTES:,} bytes")
        manifest = Manifest.model_validate(json.loads(content), strict=True)
    except (ValueError, RecursionError) as error:  # ValidationError and JSONDecodeError are ValueErrors
        reason = _reason(error) if isinstance(error, ValidationError) else str(error)
        raise _refused(place, f"its {MANIFEST} is none that this ftrun reads: {reason}") from None
    words = [*manifest.provenance, *manifest.provenance.values(), manifest.ftrun]
    if odd := next((word for word in words if not word.isprintable()), None):
        raise _refused(place, f"its {MANIFEST} holds characters that cannot be shown: {shown(odd)}")
    _judge_names(manifest, place)
    if manifest.digest != digest_entries(manifest.files):
        raise _refused(place, "its digest is not the one of its files")
    return manifest


def judge_name(name: str) -> str | None:
    """Why a name is unfit for a file of a bundle; None where it is fit."""
    parts = name.split("/")
    if len(name) > 300 or len(parts) > 8 or not all(_PART.fullmatch(part) for part in parts):
        return "it leads out of its folder, is hidden, or holds characters that not every file system takes"
    if any(_WINDOWS.fullmatch(part) for part in parts):
        return "it names a device on Windows"
    if not name.lower().endswith(ENDINGS):
        return f"a bundle holds recipes, data, templates and Python files ({', '.join(ENDINGS)})"
    return None


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle from its folder into memory, and compare every byte with its digest.

    Links, devices and pipes are refused, in place of a file and on the way to it, and no more is read than the
    manifest says. Raises BundleError.
    """
    place = str(folder)
    manifest = read_manifest(read_plain(folder, MANIFEST, MAX_MANIFEST_BYTES), place)
    return checked(manifest, lambda one: read_plain(folder, one.name, one.bytes), place)


def checked(manifest: Manifest, read: Callable[[Entry], bytes], place: str) -> Bundle:
    """The bundle of a manifest, its files read by `read`. Raises BundleError where one is not what it is said to be."""
    files = {}
    for one in manifest.files:
        if one.stored:
            content = read(one)
            if hashlib.sha256(content).hexdigest() != one.sha256:
                raise _refused(place, f"{one.name} is not what {MANIFEST} says: its SHA-256 is another")
            files[one.name] = content
    return Bundle(manifest, files)


def read_plain(folder: Path, name: str, limit: int) -> bytes:
    """The content of a plain file below a folder, of at most `limit` bytes. Raises BundleError for anything else."""
    place, path = str(folder), folder
    try:
        for part in PurePosixPath(name).parts[:-1]:
            path = path / part
            if not stat.S_ISDIR(path.lstat().st_mode):
                raise _refused(place, f"{name} lies behind a link, and not in a folder")
        path = folder / name
        if not stat.S_ISREG(path.lstat().st_mode):
            raise _refused(place, f"{name} is no plain file but a link, a folder, a pipe or a device")
        # Between the look and the opening it may have become a pipe, which would be waited for.
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        with os.fdopen(os.open(path, flags | getattr(os, "O_BINARY", 0)), "rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError:
        raise _refused(place, f"{name} is missing") from None
    except OSError as error:
        raise _refused(place, f"{name} cannot be read: {error.strerror or error}") from None
    if len(content) > limit:
        raise _refused(place, f"{name} is larger than {limit:,} bytes")
    return content


def shown(text: str) -> str:
    """A text from elsewhere in a sentence: in full up to 200 characters, with nothing a terminal would act on."""
    text = text if len(text) <= 200 else f"{text[:200]}…"
    return text if text.isprintable() else ascii(text)


def _judge_names(manifest: Manifest, place: str) -> None:
    folded: dict[str, str] = {MANIFEST: MANIFEST}
    for one in manifest.files:
        if reason := judge_name(one.name):
            raise _refused(place, f"it names a file {shown(one.name)}: {reason}")
        if other := folded.get(one.name.casefold()):
            raise _refused(place, f"{shown(one.name)} and {other} are one file where case does not count")
        folded[one.name.casefold()] = one.name
        if one.stored and one.bytes > MAX_FILE_BYTES:
            raise _refused(place, f"{one.name} is larger than {MAX_FILE_BYTES:,} bytes")
        if not one.stored and not one.name.lower().endswith(DATA_ENDINGS):
            raise _refused(place, f"{one.name} is left out, and only data may be")
    for name in folded:
        if any(str(parent) in folded for parent in PurePosixPath(name).parents):
            raise _refused(place, f"{folded[name]} lies in another of its files")
    if not any(one.name == RECIPE and one.stored for one in manifest.files):
        raise _refused(place, f"it holds no {RECIPE}")
    if sum(one.bytes for one in manifest.files if one.stored) > MAX_BYTES:
        raise _refused(place, f"its files are larger than {MAX_BYTES:,} bytes together")


def _reason(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    return shown(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}")


def _refused(place: str, reason: str) -> BundleError:
    fix = "Ask whoever keeps the catalogue; nothing of it was used."
    return BundleError(f"The bundle at {shown(place)} is refused: {reason}.", fix)
