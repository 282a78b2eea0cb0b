"""The commands that look at a run before it happens, at the checks and at the schema, and those that use a result."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ftrun.runner.application import LOOK, USE, Form, Recipe, Sets, Stage

looking = typer.Typer()

TextOrJson = Annotated[Form, typer.Option("--format", "-f", help="How it is written.")]
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
RunName = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run folder, MLflow's id or the start of one, a run's name, or a recipe's name: its newest run.",
        show_default=False,
    ),
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
    format: TextOrJson = Form.text,
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


@looking.command(rich_help_panel=USE)
def launch(
    recipe: Recipe,
    slurm: Annotated[bool, typer.Option("--slurm", help="A script for sbatch.")] = False,
    kubernetes: Annotated[
        bool, typer.Option("--kubernetes", help="A TrainJob of Kubeflow Trainer 2.")
    ] = False,
    set: Sets = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write. Default: stdout.")
    ] = None,
) -> None:
    """Write the job that runs a recipe on a cluster, with its processes, machines and GPUs. Nothing is submitted."""
    from ftrun.runner.launching.job import write_job
    from ftrun.runner.launching.kubernetes import form_manifest
    from ftrun.runner.launching.slurm import form_script

    if slurm == kubernetes:
        raise typer.BadParameter("give one of --slurm and --kubernetes")
    raise typer.Exit(write_job(recipe, set or [], form_script if slurm else form_manifest, output))


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
def runs(
    output: Annotated[
        Path | None,
        typer.Argument(
            metavar="[OUTPUT]", help="The folder that the runs and their store are in.", show_default=False
        ),
    ] = None,
    uri: Store = None,
    experiment: Annotated[
        str | None, typer.Option("--experiment", metavar="NAME", help="Only the runs of this experiment.")
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="Every run, not only the newest 20.")] = False,
    format: TextOrJson = Form.text,
) -> None:
    """List the runs of a store, the newest first: how they stand, their loss, their held-out figure."""
    from ftrun.runner.story.listing import list_runs

    if output is not None and uri is not None:
        raise typer.BadParameter("OUTPUT and --uri both name a store: give one of them")
    raise typer.Exit(list_runs(output, uri, experiment, all, format.value))


@looking.command(rich_help_panel=LOOK)
def show(run: RunName, uri: Store = None, format: TextOrJson = Form.text) -> None:
    """Tell the story of a run: what it is, its curves, its guards, why it failed, what to do next."""
    from ftrun.runner.story.show import show_run

    raise typer.Exit(show_run(run, uri, format.value))


@looking.command(rich_help_panel=LOOK)
def diff(
    a: Annotated[
        str,
        typer.Argument(
            metavar="A", help="A recipe's file, or a run as for `ftrun show`.", show_default=False
        ),
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="Another.", show_default=False)],
    uri: Store = None,
    format: TextOrJson = Form.text,
) -> None:
    """Lay two recipes, two runs, or one of each side by side: settings, data, environment, curves, results."""
    from ftrun.runner.story.comparison import compare_things

    raise typer.Exit(compare_things(a, b, uri, format.value))


@looking.command(rich_help_panel=LOOK)
def checks(
    format: TextOrJson = Form.text,
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
    from ftrun.runner.chat import chat as talk
    from ftrun.runner.speakers import Settings

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


@looking.command(rich_help_panel=USE)
def reproduce(
    run: RunName,
    check: Annotated[
        bool, typer.Option("--check", help="Tell what has changed since, and train nothing.")
    ] = False,
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, metavar="N", help="Only the first N steps; the schedule stays."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="FOLDER", help="Where rows and models lie here, if not where they were."
        ),
    ] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Go on with rows or models of another content.")
    ] = False,
    install: Annotated[
        bool,
        typer.Option(
            "--install", help="Do it with the packages of the record, in an environment of their own."
        ),
    ] = False,
    uri: Store = None,
    format: TextOrJson = Form.text,
) -> None:
    """Repeat a run from its record and prove it equal bit for bit, or say where and why it first differs."""
    from ftrun.runner.printing.text import make_console
    from ftrun.runner.record.repetition import Request
    from ftrun.runner.record.reproduction import reproduce as repeat

    request = Request(check, steps, data, anyway, install, format.value)
    raise typer.Exit(repeat(run, request, uri=uri, out=make_console(), err=make_console(stderr=True)))
