"""A pipeline: recipes by name, one after the other, where a later one may take what an earlier one made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from ftrun.schemas.document import Document, read_document
from ftrun.schemas.errors import RecipeError
from ftrun.schemas.launch import Launch
from ftrun.schemas.layers import TEAM, Layer, place, resolved
from ftrun.schemas.load import Draft, RecipeFile, both_kinds, in_order, read_draft
from ftrun.schemas.mistake import Mistake, Where
from ftrun.schemas.nodes import Keys
from ftrun.schemas.overrides import FILE as COMMAND_LINE
from ftrun.schemas.overrides import overridden, set_over
from ftrun.schemas.references import stages_named
from ftrun.schemas.rejections import Ground, mistakes_of
from ftrun.schemas.section import Section
from ftrun.schemas.sections import NAME, BaseRecipe, Tracking
from ftrun.schemas.shapes import homes_of
from ftrun.schemas.spelling import nearest
from ftrun.schemas.stage_mistakes import find_unequal_counts, find_unknown_stages, tell_of_stage

StageName = Annotated[str, Field(pattern=NAME)]


class Stage(Section):
    """One stage: a recipe, and what is set in it."""

    recipe: str = Field(min_length=1)
    """The stage's recipe: a file relative to this one, or `team:NAME@VERSION` of a catalogue."""

    set: dict[str, Any] = Field(default_factory=dict)
    """Keys laid over that recipe, each with its path: `{model.path: stage:sft, training.seed: 7}`. `stage:NAME`
    is the model that an earlier stage makes."""


class Pipeline(Section):
    """Several recipes that run one after the other, each by its name."""

    name: str = Field(pattern=NAME)
    """Names the pipeline's folder and its MLflow run: letters, digits, dot, dash and underscore."""

    stages: dict[StageName, Stage] = Field(min_length=1)
    """The stages in the order in which they run, each under its name."""

    tracking: Tracking = Field(default_factory=Tracking)
    """Where the pipeline and its stages are recorded: `uri` and `experiment` hold for all of them, in place of
    what their recipes say, and `tags` are added to theirs. Absent, the experiment is the pipeline's name."""

    launch: Launch | None = None
    """The processes of every stage, in place of what their recipes say. Absent: those of the recipes, which then have
    to agree on how many there are, since the same processes run all stages."""

    output: str = Field(default="runs", min_length=1)
    """Folder for the pipeline's folders, relative to where the command runs, in place of what the recipes of
    its stages say."""


@dataclass(frozen=True)
class StageFile:
    """A stage that may be run: `file.recipe` holds `stage:NAME` as written, `inputs` where and which."""

    name: str
    file: RecipeFile
    inputs: Mapping[Keys, str]


@dataclass(frozen=True)
class PipelineFile:
    """A pipeline that may be run, with the recipe of each stage as the stage sets it."""

    path: Path
    document: Document
    pipeline: Pipeline
    stages: tuple[StageFile, ...]

    @property
    def launch(self) -> Launch:
        """The processes that run all stages."""
        return self.stages[0].file.recipe.launch


def is_pipeline(path: Path) -> bool:
    """Whether a file has `stages:`. What cannot be read is none: it is told as a recipe."""
    try:
        return "stages" in read_document(path).tree
    except RecipeError:
        return False


def load_pipeline(path: str | Path, sets: Sequence[str] = ()) -> PipelineFile:
    """Read a pipeline and the recipes of its stages, and validate them all.

    `--set STAGE.key.path=value` lays a value over a stage's recipe and over what the pipeline sets there;
    `--set output=…` and the other keys of the pipeline are its own.
    Raises RecipeError with every mistake that was found in any of the files.
    """
    path = Path(path)
    document = read_document(path)
    if "method" in document.tree:
        raise RecipeError([both_kinds(document.positions.get(("stages",), Where(str(path))))])
    written = document.tree.get("stages")
    names = list(written) if isinstance(written, dict) else []
    own, of_stages, mistakes = _sorted_sets(sets, names)
    layer, malformed = overridden(Layer(document.tree, document.positions), own)
    pipeline, rejected = _validated(layer, path)
    mistakes = [*document.mistakes, *mistakes, *malformed, *rejected]
    drafts: dict[str, Draft | None] = {}
    for name in names:
        drafts[name], found = _read_stage(name, layer, path, of_stages[name])
        mistakes += found
    for name, draft in drafts.items():
        mistakes += draft.mistakes if draft else ()
        mistakes += find_unknown_stages(name, draft, names) if draft else ()
    if pipeline is not None and pipeline.launch is None:
        mistakes += find_unequal_counts(drafts)
    if mistakes or pipeline is None:
        files = [str(path), *(str(one.path) for draft in drafts.values() if draft for one in draft.documents)]
        raise RecipeError(in_order(mistakes, list(dict.fromkeys(files))))
    stages = tuple(
        StageFile(name, _placed(draft.finished(), pipeline), dict(stages_named(draft.layer.tree)))
        for name, draft in drafts.items()
        if draft is not None
    )
    return PipelineFile(path, document, pipeline, stages)


def _placed(file: RecipeFile, pipeline: Pipeline) -> RecipeFile:
    """The recipe with the pipeline's output folder, tracking and processes."""
    tags = {**pipeline.tracking.tags, **file.recipe.tracking.tags}
    tracking = Tracking(
        uri=pipeline.tracking.uri, experiment=pipeline.tracking.experiment or pipeline.name, tags=tags
    )
    launch = pipeline.launch or file.recipe.launch
    recipe = file.recipe.model_copy(
        update={"output": pipeline.output, "tracking": tracking, "launch": launch}
    )
    return replace(file, recipe=recipe)


def _sorted_sets(
    sets: Sequence[str], names: Sequence[str]
) -> tuple[list[str], dict[str, list[str]], list[Mistake]]:
    """The texts of `--set` that are the pipeline's own, those of each stage without its name, and mistakes."""
    own: list[str] = []
    of_stages: dict[str, list[str]] = {name: [] for name in names}
    mistakes = []
    for text in sets:
        first, dot, rest = text.partition(".")
        key = first.partition("=")[0].strip()
        if dot and first in of_stages:
            of_stages[first].append(rest)
        elif key in Pipeline.model_fields and key != "stages":
            own.append(text)
        else:
            is_known = key in names or key == "stages" or key in BaseRecipe.model_fields
            near = None if is_known else nearest(key, [*names, *Pipeline.model_fields])
            fix = f"Did you mean `{near}`?" if near else "Write `--set STAGE.key.path=value`."
            shown = text if text.isprintable() else ascii(text)
            message = (
                f"`--set {shown}` names no key of the pipeline, and no key of a stage ({', '.join(names)})."
            )
            mistakes.append(Mistake("set_malformed", message, Where(COMMAND_LINE), fix))
    return own, of_stages, mistakes


def _validated(layer: Layer, path: Path) -> tuple[Pipeline | None, list[Mistake]]:
    def find(keys: Keys) -> Where:
        return place(layer.origins, keys, str(path))

    tree = layer.tree
    if tree.get("stages") in ({}, None):
        fix = "Write `stages: {sft: {recipe: sft.yaml}}`."
        return None, [Mistake("missing_key", "The pipeline has no stages.", find(("stages",)), fix)]
    mistakes = [
        Mistake(
            "out_of_range",
            f"`{name}` is a key of the pipeline, and so no name of a stage.",
            find(("stages", name)),
            f"Choose another, such as `{name}-stage`.",
        )
        for name in (tree["stages"] if isinstance(tree["stages"], dict) else ())
        if name in Pipeline.model_fields
    ]
    for key in [key for key in tree if key in BaseRecipe.model_fields and key not in Pipeline.model_fields]:
        fix = f"Write it into the recipe of a stage, or into its `set:`, as `set: {{{key}…: …}}`."
        message = f"`{key}` belongs to a recipe, and a pipeline has none of its own."
        mistakes.append(Mistake("unknown_key", message, find((key,)), fix))
        tree = {name: value for name, value in tree.items() if name != key}
    try:
        return Pipeline.model_validate(tree, strict=True), mistakes
    except ValidationError as error:
        ground = Ground(Pipeline, tree, homes_of(Pipeline, {}), find, "a pipeline")
        return None, [*mistakes, *mistakes_of(error, ground)]


def _read_stage(
    name: str, layer: Layer, path: Path, sets: Sequence[str]
) -> tuple[Draft | None, list[Mistake]]:
    """The recipe of a stage with what is set in it, and what keeps it from being read."""
    stage = layer.tree["stages"][name]
    recipe = stage.get("recipe") if isinstance(stage, dict) else None
    if not isinstance(recipe, str) or not recipe:
        return None, []  # told by the models
    at = place(layer.origins, ("stages", name, "recipe"), str(path))
    file = _find_recipe(name, recipe, path, at)
    if isinstance(file, Mistake):
        return None, [file]
    written = stage.get("set") if isinstance(stage.get("set"), dict) else {}
    above: Keys = ("stages", name, "set")
    places = {keys[3:]: where for keys, where in layer.origins.items() if keys[:3] == above and keys[3:]}

    def lay_over(under: Layer) -> tuple[Layer, list[Mistake]]:
        laid, mistakes = set_over(under, written or {}, places)
        laid, more = overridden(laid, sets)
        return laid, [*mistakes, *more]

    try:
        return read_draft(file, lay_over, recipe if recipe.startswith(TEAM) else None), []
    except RecipeError as error:
        return None, [tell_of_stage(one, at, name, file) for one in error.mistakes]


def _find_recipe(name: str, recipe: str, path: Path, at: Where) -> Path | Mistake:
    """The file of a stage's recipe, one of a catalogue in the cache."""
    if recipe.startswith(TEAM):
        from ftrun.schemas.bundle import BundleError  # these two are imported only where they are asked for
        from ftrun.schemas.catalogue import locate_base

        try:
            return locate_base(recipe, path.parent)
        except BundleError as error:
            return Mistake(
                "stage_broken", f"The recipe of the stage `{name}` cannot be used. {error}", at, error.fix
            )
    try:
        file = path.parent / Path(recipe).expanduser()
    except RuntimeError:
        message = f"The recipe of the stage `{name}` is in a home folder that is not there: `{recipe}`."
        return Mistake("stage_broken", message, at, "Correct the path.")
    if resolved(file) == resolved(path):
        message = f"The stage `{name}` names the pipeline itself."
        return Mistake("stage_broken", message, at, "Name the recipe that the stage runs.")
    return file
