"""The commands that look at a run before it happens, at the checks and at the schema, and those that use a result."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ftrun.runner.application import LOOK, USE, Format, Recipe, Sets, Stage

looking = typer.Typer()

TextOrJson = Annotated[Format, typer.Option("--format", "-f", help="text or json.")]
ResultName = Annotated[
    str,
    typer.Argument(
        metavar="RUN|PATH",
        help="A run (its name, [bold]run:NAME[/], its id or the start of one), a run folder, a model folder, "
        "an adapter folder, or a hub id.",
        show_default=False,
    ),
]
Base = Annotated[
    str | None,
    typer.Option("--base", metavar="PATH", help="The base model, where it is not the one that is recorded."),
]
Store = Annotated[
    str | None,
    typer.Option(
        "--uri",
        metavar="URI",
        help="The MLflow store that the run is in. Default: MLFLOW_TRACKING_URI, else the one in [bold]runs[/].",
    ),
]


class Type(StrEnum):
    """The types that weights are written in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@looking.command(rich_help_panel=LOOK)
def plan(
    recipe: Recipe,
    upto: Annotated[
        Stage, typer.Option("--upto", help="The last stage to build: [bold]step[/] also measures time.")
    ] = Stage.data,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory", metavar="SIZE", help="Plan for a GPU of this memory, such as [bold]24GiB[/]."
        ),
    ] = None,
    set: Sets = None,
    format: TextOrJson = Format.text,
) -> None:
    """Show what a run would do: settings and where each is from, rows, steps, schedule, checkpoints, memory."""
    from ftrun.runner.plan.memory import read_size
    from ftrun.runner.plan.plan import plan_recipe

    try:
        size = None if memory is None else read_size(memory)
    except ValueError as error:
        raise typer.BadParameter(f"{error}; write it as 24GiB", param_hint="--memory") from None
    code = plan_recipe(recipe, upto=upto.value, sets=set or [], memory=size, format=format.value)
    raise typer.Exit(code)


@looking.command(rich_help_panel=LOOK)
def preview(
    recipe: Recipe,
    rows: Annotated[int, typer.Option("-n", "--rows", min=1, metavar="N", help="Rows of each source.")] = 1,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page that holds them, and print nothing."),
    ] = None,
    set: Sets = None,
) -> None:
    """Show rows as the model will see them, token by token, with the trained tokens marked: the first of each
    source, the longest, the shortest and those that lose most to the length limit."""
    from ftrun.runner.preview import preview_recipe

    raise typer.Exit(preview_recipe(recipe, rows=rows, sets=set or [], html=html))


@looking.command(rich_help_panel=LOOK)
def checks(
    format: TextOrJson = Format.text,
) -> None:
    """List the checks: id, severity, stage, and what is right when they pass."""
    from ftrun.runner.explain import list_checks

    list_checks(format.value)


@looking.command(rich_help_panel=LOOK)
def explain(
    id: Annotated[str, typer.Argument(metavar="ID", help="A check, such as DATA003.", show_default=False)],
) -> None:
    """Explain one check: symptom, cause, fix, prevention."""
    from ftrun.runner.explain import explain_check

    raise typer.Exit(explain_check(id))


@looking.command(rich_help_panel=LOOK)
def schema() -> None:
    """Print the JSON Schema of recipes, for editors and other tools."""
    from ftrun.runner.explain import print_schema

    print_schema()


@looking.command(rich_help_panel=USE)
def chat(
    result: ResultName,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", "-p", metavar="TEXT", help="Print the answer to this and leave."),
    ] = None,
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help="The system turn of the conversation.")
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, metavar="N", help="The length of an answer at most.")
    ] = 512,
    temperature: Annotated[
        float,
        typer.Option("--temperature", min=0.0, metavar="T", help="0 takes the likeliest token each time."),
    ] = 0.0,
    compare: Annotated[
        bool, typer.Option("--compare", help="Show the base model's answer beside the tuned one.")
    ] = False,
    base: Base = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Give the model the text as it is, without its chat template.")
    ] = False,
    uri: Store = None,
) -> None:
    """Talk to a result in the terminal. Prompts from a pipe are answered line by line, each by itself."""
    from ftrun.runner.chat import Settings
    from ftrun.runner.chat import chat as talk

    settings = Settings(system, max_new_tokens, temperature, plain)
    raise typer.Exit(talk(result, settings, prompt=prompt, compare=compare, base=base, uri=uri))


@looking.command(rich_help_panel=USE)
def export(
    result: ResultName,
    destination: Annotated[
        Path, typer.Argument(metavar="DEST", help="The folder to write.", show_default=False)
    ],
    dtype: Annotated[
        Type | None, typer.Option("--dtype", help="Type of the weights. Default: as they are.")
    ] = None,
    base: Base = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder that is not empty.")] = False,
    uri: Store = None,
) -> None:
    """Merge adapters into a plain model folder, and prove that it is the model that was trained."""
    from ftrun.runner.export import export as write

    kind = None if dtype is None else dtype.value
    raise typer.Exit(write(result, destination, dtype=kind, base=base, force=force, uri=uri))
