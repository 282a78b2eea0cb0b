"""`ftrun recipes …`: the commands around shared recipes. Those on shipped ones need the light base alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ftrun.runner.application import Form

INVALID = 2

sharing = typer.Typer(
    no_args_is_help=True,
    help="Recipes that ship with ftrun, and those that your team keeps: list, show, copy, push, pull, lock.",
)

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="A shipped recipe, or one of the team: [bold]NAME[/], [bold]team:NAME@VERSION[/], "
        "[bold]NAME@sha256:DIGEST[/].",
        show_default=False,
    ),
]
Catalogue = Annotated[
    str | None,
    typer.Option(
        "--catalogue",
        metavar="PLACE",
        envvar="FTRUN_CATALOGUE",
        help="Where the team keeps its recipes: a folder (a git repository is one), or an MLflow tracking URI.",
    ),
]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Take it in spite of what it asks for: you have read it."),
]


@sharing.command("list")
def list_(
    catalogue: Catalogue = None,
    format: Annotated[Form, typer.Option("--format", "-f", help="How it is written.")] = Form.text,
) -> None:
    """List the recipes: name, method, versions, and what each is for."""
    from ftrun.runner.printing.text import make_console
    from ftrun.runner.sharing.showing import list_recipes
    from ftrun.runner.sharing.stores import open_store

    with _telling():
        list_recipes(open_store(catalogue) if catalogue else None, format.value, make_console())


@sharing.command()
def show(
    name: Name,
    file: Annotated[
        str | None, typer.Option("--file", metavar="FILE", help="Print this file of it instead.")
    ] = None,
    catalogue: Catalogue = None,
) -> None:
    """Print a recipe: its digest, the files that it uses, what it would be allowed, its text."""
    from ftrun.runner.printing.text import make_console
    from ftrun.runner.sharing.shipped import find_shipped
    from ftrun.runner.sharing.showing import show_bundle, show_shipped
    from ftrun.runner.sharing.stores import find_bundle, open_store
    from ftrun.schemas.bundle import read_address

    with _telling():
        if path := find_shipped(name, or_team=bool(catalogue)):
            show_shipped(name, path, file, make_console())
        else:
            show_bundle(find_bundle(open_store(catalogue), read_address(name)), file, make_console())


@sharing.command()
def copy(
    name: Name,
    target: Annotated[
        Path | None,
        typer.Argument(metavar="[DEST]", help="A folder, or the recipe's new file.", show_default=False),
    ] = None,
    catalogue: Catalogue = None,
) -> None:
    """Write a recipe with its data and code here, to change and run. What is there is never overwritten."""
    from ftrun.runner.printing.text import make_console
    from ftrun.runner.sharing.copying import copy_recipe
    from ftrun.runner.sharing.shipped import find_shipped

    if path := find_shipped(name, or_team=bool(catalogue)):
        with _telling():
            copy_recipe(name, path, target, make_console())
    else:
        pull(name, target, trust=False, catalogue=catalogue)


@sharing.command()
def push(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="A recipe or a pipeline.", show_default=False)
    ],
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="What it is called there. Default: its `name:`."),
    ] = None,
    version: Annotated[
        str, typer.Option("--version", metavar="N|next", help="Its version; one that is there never changes.")
    ] = "next",
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="RUN", help="The run that proves it, noted in its provenance."),
    ] = None,
    base: Annotated[
        bool, typer.Option("--base", help="It is a part, to be extended: keys may be missing.")
    ] = False,
    catalogue: Catalogue = None,
) -> None:
    """Store a recipe, merged with what it extends, and the files that it uses, as a version of the catalogue."""
    from ftrun.runner.printing.text import make_console
    from ftrun.runner.sharing.pushing import push_recipe
    from ftrun.runner.sharing.stores import open_store

    if version != "next" and not (version.isascii() and version.isdecimal() and 0 < int(version) < 10**9):
        raise typer.BadParameter("write a whole number from 1, or next", param_hint="--version")
    number = None if version == "next" else int(version)
    with _telling():
        store = open_store(catalogue)
        console = make_console()
        push_recipe(recipe, store, name=name, version=number, run=run, is_base=base, console=console)


@sharing.command()
def pull(
    address: Annotated[
        str,
        typer.Argument(
            metavar="NAME[@VERSION|@DIGEST]",
            help="A recipe of the team. Default: its newest version.",
            show_default=False,
        ),
    ],
    target: Annotated[
        Path | None, typer.Argument(metavar="[DEST]", help="The folder to write.", show_default=False)
    ] = None,
    trust: Trust = False,
    catalogue: Catalogue = None,
) -> None:
    """Write a recipe of the team into a new folder, every byte compared with its digest.

    What it would be allowed beyond that folder is shown first, and refused without [bold]--trust[/].
    """
    from ftrun.runner.printing.text import make_console
    from ftrun.runner.sharing.pulling import pull_recipe
    from ftrun.runner.sharing.stores import open_store
    from ftrun.schemas.bundle import read_address

    with _telling():
        pull_recipe(read_address(address), open_store(catalogue), target, trust=trust, console=make_console())


@sharing.command()
def lock(
    recipes: Annotated[
        list[Path], typer.Argument(metavar="RECIPE...", help="Recipes and pipelines.", show_default=False)
    ],
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit with 2 where the lock is stale. For CI.")
    ] = False,
    catalogue: Catalogue = None,
) -> None:
    """Fetch what recipes extend of the catalogue, and pin it by digest in [bold]recipes.lock[/] beside them."""
    from ftrun.runner.printing.text import make_console
    from ftrun.runner.sharing.pulling import lock_recipes
    from ftrun.runner.sharing.stores import open_store

    with _telling():
        store = open_store(catalogue) if catalogue else None
        raise typer.Exit(lock_recipes(recipes, store, check=check, console=make_console()))


@contextmanager
def _telling() -> Iterator[None]:
    """A recipe or a bundle that is refused in one line with what to do, and exit code 2."""
    from ftrun.schemas.bundle import BundleError
    from ftrun.schemas.errors import RecipeError

    try:
        yield
    except BundleError as error:
        print(f"ftrun: {error} {error.fix}", file=sys.stderr)
        raise typer.Exit(INVALID) from None
    except RecipeError as error:
        print(f"ftrun: {error}", file=sys.stderr)
        raise typer.Exit(INVALID) from None
