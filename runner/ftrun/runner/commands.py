"""The commands: what each is called, what it takes, and which function does its work.

Nothing heavy is imported here: a command imports its own module when it runs, so `ftrun validate` never
waits for torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

RUN, CHECK, LOOK, USE = "Run", "Check", "Look", "Use"


class RecipeOrCommand(TyperGroup):
    """A group whose first word may be a recipe: `ftrun recipe.yaml` is `ftrun run recipe.yaml`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        word = args[0]
        if word not in self.commands and (Path(word).suffix in (".yaml", ".yml") or Path(word).exists()):
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
        "130 interrupted, checkpoint saved"
    ),
)


class Format(StrEnum):
    """How a report is written."""

    text = "text"
    json = "json"
    sarif = "sarif"
    github = "github"


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
    from ftrun.runner.libraries import require_training
    from ftrun.runner.printing.text import make_console
    from ftrun.schemas.pipeline import is_pipeline

    if fresh and resume:
        raise typer.BadParameter("--fresh begins anew and --resume goes on: give one of them")
    require_training(str(recipe))
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
    method: Annotated[str, typer.Argument(metavar="METHOD", help="What to train: sft.", show_default=False)],
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


@app.command(rich_help_panel=LOOK)
def preview(
    recipe: Recipe,
    rows: Annotated[int, typer.Option("-n", "--rows", min=1, metavar="N", help="Rows of each source.")] = 3,
    set: Sets = None,
) -> None:
    """Show rows as the model will see them, token by token, with the trained tokens marked."""
    from ftrun.runner.preview import preview_recipe

    raise typer.Exit(preview_recipe(recipe, rows=rows, sets=set or []))


@app.command(rich_help_panel=LOOK)
def checks(
    format: Annotated[Format, typer.Option("--format", "-f", help="text or json.")] = Format.text,
) -> None:
    """List the checks: id, severity, stage, and what is right when they pass."""
    from ftrun.runner.explain import list_checks

    list_checks(format.value)


@app.command(rich_help_panel=LOOK)
def explain(
    id: Annotated[str, typer.Argument(metavar="ID", help="A check, such as DATA003.", show_default=False)],
) -> None:
    """Explain one check: symptom, cause, fix, prevention."""
    from ftrun.runner.explain import explain_check

    raise typer.Exit(explain_check(id))


@app.command(rich_help_panel=LOOK)
def schema() -> None:
    """Print the JSON Schema of recipes, for editors and other tools."""
    from ftrun.runner.explain import print_schema

    print_schema()


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


@app.command(rich_help_panel=USE)
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


@app.command(rich_help_panel=USE)
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


def _reasons(ids: list[str] | None) -> Mapping[str, str]:
    return dict.fromkeys((id.upper() for id in ids or ()), "by --ignore")
