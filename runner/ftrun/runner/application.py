"""The command line itself: its name, its help, and the options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

RUN, CHECK, LOOK, USE = "Run", "Check", "Look", "Use"


def _is_there(word: str) -> bool:
    try:
        return Path(word).exists()
    except OSError:  # longer than the name of a file may be
        return False


class RecipeOrCommand(TyperGroup):
    """A group whose first word may be a recipe: `ftrun recipe.yaml` is `ftrun run recipe.yaml`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        word = args[0]
        if word not in self.commands and (Path(word).suffix in (".yaml", ".yml") or _is_there(word)):
            args = ["run", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=RecipeOrCommand,
    name="ftrun",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Fine-tune a language model from one recipe: validated, checked before a GPU second is spent, trained, "
        "and recorded in MLflow.\n\n"
        "[bold]ftrun recipe.yaml[/] does all of it. Start with [bold]ftrun init sft my-data.jsonl[/]."
    ),
    epilog=(
        "Exit codes: 0 done · 1 the run failed · 2 invalid recipe or usage · 3 preflight found errors · "
        "4 a reproduction differs · 130 interrupted, checkpoint saved"
    ),
)


class Format(StrEnum):
    """How a report is written."""

    text = "text"
    json = "json"
    sarif = "sarif"
    github = "github"


class Form(StrEnum):
    """How anything but a report is written: for people, or for programs."""

    text = "text"
    json = "json"


class Stage(StrEnum):
    """The stages of the climb."""

    recipe = "recipe"
    environment = "environment"
    data = "data"
    model = "model"
    step = "step"


Recipe = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="The recipe or pipeline, a YAML file.", show_default=False)
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="KEY=VALUE",
        help="Override a key: [bold]training.learning_rate=1e-5[/]. Repeatable.",
    ),
]
Ignores = Annotated[
    list[str] | None,
    typer.Option("--ignore", metavar="ID", help="Report this check but let it stop nothing. Repeatable."),
]
Fix = Annotated[
    bool, typer.Option("--fix", help="Write mechanical fixes into the recipe, then check it again.")
]
ReportFormat = Annotated[Format, typer.Option("--format", "-f", help="How the report is written.")]


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"ftrun {version('ftrun')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass
