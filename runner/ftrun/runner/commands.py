"""The commands: what each is called, what it takes, and which function does its work.

Those that run and check are here, those that look at things and use results in `ftrun.runner.looking`, those of
`ftrun recipes` in `ftrun.runner.sharing.commands`. Nothing heavy is imported: a command imports its own module when it
runs, so `ftrun validate` never waits for torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ftrun.runner.application import (
    CHECK,
    RUN,
    USE,
    Fix,
    Format,
    Ignores,
    Recipe,
    ReportFormat,
    Sets,
    Stage,
    app,
)
from ftrun.runner.looking import looking
from ftrun.runner.sharing.commands import sharing

__all__ = ["app"]


@app.command(rich_help_panel=RUN)
def run(
    recipe: Recipe,
    set: Sets = None,
    ignore: Ignores = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the newest run of this file, from its last checkpoint."),
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Of a pipeline: repeat every stage, unchanged ones too.")
    ] = False,
) -> None:
    """Validate, check, train and record a recipe, or every stage of a pipeline. The word [bold]run[/] may be
    left out."""
    from ftrun.runner.launching.starting import start_recipe
    from ftrun.runner.libraries import require_training
    from ftrun.runner.printing.text import make_console
    from ftrun.schemas.pipeline import is_pipeline

    if fresh and resume:
        raise typer.BadParameter("--fresh begins anew and --resume goes on: give one of them")
    require_training(str(recipe))
    words = [
        "run",
        str(recipe),
        *(f"--set={one}" for one in set or []),
        *(f"--ignore={one}" for one in ignore or []),
    ]
    words += ["--resume"] * resume + ["--fresh"] * fresh
    if (code := start_recipe(recipe, set or [], words)) is not None:
        raise typer.Exit(code)
    options: Any = {
        "sets": set or [],
        "ignore": _reasons(ignore),
        "resume": resume,
        "out": make_console(),
        "err": make_console(stderr=True),
    }
    if is_pipeline(recipe):
        from ftrun.runner.pipeline import run_pipeline

        raise typer.Exit(run_pipeline(recipe, **options, fresh=fresh))
    if fresh:
        raise typer.BadParameter("--fresh is for pipelines: a recipe alone is always run anew")
    from ftrun.runner.run import run_recipe

    raise typer.Exit(run_recipe(recipe, **options))


@app.command(rich_help_panel=RUN)
def init(
    method: Annotated[
        str, typer.Argument(metavar="METHOD", help="sft, reward, dpo or ppo.", show_default=False)
    ],
    data: Annotated[
        Path | None,
        typer.Argument(metavar="[DATA]", help="Your rows; their columns are read.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where to write. Default: METHOD.yaml here."),
    ] = None,
) -> None:
    """Write a short, commented starter recipe for your data, valid at once."""
    from ftrun.runner.init import write_starter

    raise typer.Exit(write_starter(method, data, output))


@app.command(rich_help_panel=RUN)
def sync(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN-FOLDER...", help="Folders of runs.", show_default=False)
    ],
    uri: Annotated[
        str | None, typer.Option("--uri", metavar="URI", help="Another store than the run was meant for.")
    ] = None,
) -> None:
    """Send what MLflow has not taken of a run's record: the server was down, or the run was killed."""
    from ftrun.runner.libraries import require_training, settle_libraries

    require_training("sync")
    settle_libraries()
    from ftrun.runner.tracking.pending import send_pending

    for folder in folders:
        typer.echo(send_pending(folder, uri))


@app.command(rich_help_panel=CHECK)
def validate(
    recipes: Annotated[
        list[Path], typer.Argument(metavar="RECIPE...", help="One recipe or many.", show_default=False)
    ],
    set: Sets = None,
    ignore: Ignores = None,
    format: ReportFormat = Format.text,
    fix: Fix = False,
) -> None:
    """Check recipes by their text alone, in milliseconds: no torch, no model, no GPU."""
    from ftrun.runner.validate import validate_recipes

    code = validate_recipes(recipes, sets=set or [], ignore=_reasons(ignore), format=format.value, fix=fix)
    raise typer.Exit(code)


@app.command(rich_help_panel=CHECK)
def preflight(
    recipe: Recipe,
    upto: Annotated[Stage, typer.Option("--upto", help="The last stage to climb to.")] = Stage.step,
    set: Sets = None,
    ignore: Ignores = None,
    format: ReportFormat = Format.text,
    fix: Fix = False,
) -> None:
    """Run every check on data, model and one dry step, without training."""
    from ftrun.runner.validate import preflight_recipe

    code = preflight_recipe(
        recipe, upto=upto.value, sets=set or [], ignore=_reasons(ignore), format=format.value, fix=fix
    )
    raise typer.Exit(code)


@app.command(rich_help_panel=CHECK)
def doctor(format: ReportFormat = Format.text) -> None:
    """Look at this machine: packages, driver, GPU, precision, disk."""
    from ftrun.runner.doctor import examine

    raise typer.Exit(examine(format.value))


def _reasons(ids: list[str] | None) -> Mapping[str, str]:
    """What `--ignore` says, by the ids of checks. An id that no check has would ignore nothing in silence."""
    given = [id.upper() for id in ids or ()]
    if given:
        from ftrun.checks.catalogue import load_checks

        unknown = sorted({*given} - {one.id for one in load_checks()})
        if unknown:
            raise typer.BadParameter(f"there is no check {', '.join(unknown)}; `ftrun checks` lists them")
    return dict.fromkeys(given, "by --ignore")


app.add_typer(looking)
app.add_typer(sharing, name="recipes", rich_help_panel=USE)
