"""`ftrun recipes list` and `show`: which recipes there are, and what one says."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from ftrun.runner.sharing.collecting import collect
from ftrun.runner.sharing.flattening import leading_sentence
from ftrun.runner.sharing.pulling import describe, judge
from ftrun.runner.sharing.shipped import list_shipped
from ftrun.runner.sharing.stores import Store
from ftrun.schemas.bundle import CODE_ENDING, RECIPE, RECIPE_ENDINGS, Bundle, BundleError, shown
from ftrun.schemas.document import read_document
from ftrun.schemas.layers import read_layers
from ftrun.schemas.load import load_recipe
from ftrun.schemas.pipeline import is_pipeline, load_pipeline
from ftrun.schemas.resolve import digest, resolve


@dataclass(frozen=True)
class Listed:
    """A recipe of the list. `versions` is empty for those that ship with ftrun."""

    name: str
    method: str
    about: str
    versions: tuple[int, ...] = ()


def list_recipes(store: Store | None, format: str, console: Console) -> None:
    """Print the shipped recipes, and those of the team's catalogue where there is one."""
    shipped = list(_shipped())
    team = [] if store is None else list(_of_team(store))
    if format == "json":
        found = {"shipped": [asdict(one) for one in shipped], "team": [asdict(one) for one in team]}
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    _print_table("Shipped with ftrun", shipped, console)
    if store is not None:
        _print_table(f"Team ({store.place})", team, console)


def show_shipped(name: str, path: Path, file: str | None, console: Console) -> None:
    """Print a shipped recipe: its digests, the files it uses, its text as it is written."""
    content = collect(path)
    if file is not None:
        _print_file(file, dict(content.files), console)
        return
    console.print(Text(f"{name} ({content.method}, ships with ftrun)", style="bold"))
    console.print(f"  sha256:{content.digest}")
    for line in _resolved(path):
        console.print(f"  {line}")
    for one in content.entries:
        console.print(f"  {f'{name}.yaml' if one.name == RECIPE else one.name} ({one.bytes:,} bytes)")
    console.print()
    _print_text(read_document(path).text, "yaml", console)


def show_bundle(bundle: Bundle, file: str | None, console: Console) -> None:
    """Print a team's recipe: where it is from, what it would be allowed, its text."""
    if file is not None:
        _print_file(file, dict(bundle.files), console)
        return
    for line in describe(bundle, judge(bundle)):
        console.print(line)
    with tempfile.TemporaryDirectory(prefix="ftrun-") as scratch:
        for name, content in bundle.files.items():
            place = Path(scratch, name)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        for line in _resolved(Path(scratch, RECIPE)):
            console.print(f"  {line}")
    console.print()
    _print_text(bundle.files[RECIPE].decode("utf-8-sig"), "yaml", console)


def _shipped() -> Iterator[Listed]:
    for name, path in list_shipped().items():
        tree = read_layers(path).merged.tree
        method = "pipeline" if "stages" in tree else str(tree.get("method"))
        yield Listed(name, method, leading_sentence(read_document(path).text))


def _of_team(store: Store) -> Iterator[Listed]:
    for name in store.names():
        versions = tuple(store.versions(name))
        if not versions:
            continue
        try:
            bundle = store.read(name, versions[-1])
            about = leading_sentence(bundle.files[RECIPE].decode("utf-8", errors="replace"))
            yield Listed(name, bundle.manifest.method, shown(about), versions)
        except BundleError as error:
            yield Listed(name, "refused", str(error), versions)


def _print_table(heading: str, listed: list[Listed], console: Console) -> None:
    console.print(Text(heading, style="bold"))
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for one in listed:
        versions = ", ".join(f"@{version}" for version in one.versions[-5:])
        row = (Text(f"  {one.name}"), Text(one.method, "dim"), Text(versions, "cyan"), Text(one.about))
        table.add_row(*(row if any(other.versions for other in listed) else (*row[:2], row[3])))
    if listed:
        console.print(table)
    else:
        console.print("  nothing yet")


def _resolved(path: Path) -> Iterator[str]:
    """The digest of the recipe with nothing left open, which its runs are recorded with; of each stage's."""
    if is_pipeline(path):
        for stage in load_pipeline(path).stages:
            yield f"resolved {stage.name}: {digest(resolve(stage.file.recipe))}"
    else:
        yield f"resolved: {digest(resolve(load_recipe(path).recipe))}"


def _print_file(name: str, files: dict[str, bytes], console: Console) -> None:
    if name not in files:
        raise BundleError(f"There is no {shown(name)} in it.", f"It has {', '.join(files)}.")
    ending = Path(name).suffix.lower()
    language = "python" if ending == CODE_ENDING else "yaml" if ending in RECIPE_ENDINGS else "text"
    _print_text(files[name].decode("utf-8", errors="replace"), language, console)


def _print_text(text: str, language: str, console: Console) -> None:
    """A text in colour on a terminal, as it is in a pipe; what a terminal would act on is written out."""
    if not console.is_terminal:
        print(text, end="" if text.endswith("\n") else "\n")
        return
    safe = "".join(one if one.isprintable() or one in "\n\t" else ascii(one)[1:-1] for one in text)
    console.print(Syntax(safe, language, theme="ansi_dark", background_color="default", word_wrap=True))
