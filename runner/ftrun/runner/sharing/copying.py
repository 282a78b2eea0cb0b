"""`ftrun recipes copy`: a shipped recipe, its data and its code, to change and run."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from ftrun.runner.sharing.collecting import collect
from ftrun.runner.sharing.flattening import COPIED
from ftrun.schemas.bundle import RECIPE
from ftrun.schemas.errors import FtrunError


def copy_recipe(name: str, path: Path, target: Path | None, console: Console) -> Path:
    """Write the shipped recipe `name` into the folder `target`, by default this one, or as the file `target` where
    that ends as recipes do, with all it is made of; return the recipe's path.

    A file that is there with the same bytes stays. Raises FtrunError, before anything is written, where one is there
    with others.
    """
    from importlib.metadata import version

    content = collect(path)
    target = target or Path()
    is_file = target.suffix in (".yaml", ".yml")
    folder = target.parent if is_file else target
    recipe = target if is_file else folder / f"{name}.yaml"
    first = f"{COPIED} {version('ftrun')} from its recipe {name}, sha256:{content.digest}\n"
    wanted = {folder / one: text for one, text in content.files.items() if one != RECIPE}
    wanted[recipe] = first.encode() + content.files[RECIPE]
    for file, text in wanted.items():
        if (file.exists() or file.is_symlink()) and (not file.is_file() or file.read_bytes() != text):
            raise FtrunError(f"{file} is there already; name another folder")
    for file, text in wanted.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            with file.open("xb") as out:
                out.write(text)
            console.print(f"wrote {file} ({len(text):,} bytes)")
    console.print(f"next: ftrun {recipe}")
    return recipe
