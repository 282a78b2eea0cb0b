"""From a recipe file to a Recipe, or to everything that is wrong with the file."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ftrun.schemas import methods
from ftrun.schemas.document import Document
from ftrun.schemas.errors import RecipeError
from ftrun.schemas.layers import Layer, place, read_layers
from ftrun.schemas.mistake import Mistake, Where
from ftrun.schemas.nodes import Keys, dotted
from ftrun.schemas.overrides import overridden
from ftrun.schemas.references import stages_named
from ftrun.schemas.rejections import Ground, mistakes_of, quoted
from ftrun.schemas.sections import BaseRecipe
from ftrun.schemas.settings import Complaint, Table, judge, read_table
from ftrun.schemas.shapes import Homes, home_for, homes_of
from ftrun.schemas.spelling import nearest


@dataclass(frozen=True)
class RecipeFile:
    """A recipe that may be run.

    `recipe` is as written, its `training` and `model.lora` without defaults. `documents` are the file and
    what it extends, the file first; `origins` holds the place of each key and list entry by its path.
    """

    path: Path
    folder: Path
    recipe: BaseRecipe
    documents: tuple[Document, ...]
    origins: Mapping[Keys, Where]

    def where(self, key: str) -> Where:
        """The place of a dotted key (`data.train.0.path`), or of its nearest parent that is written."""
        keys: Keys = ()
        for name in key.split("."):
            entry = (*keys, int(name)) if name.isdecimal() else None
            keys = entry if entry in self.origins and entry is not None else (*keys, name)
        return place(self.origins, keys, str(self.path))


@dataclass(frozen=True)
class Draft:
    """A recipe file as it was read: its values and their places, the recipe if they make one, and every
    mistake, in the order of the files."""

    path: Path
    layer: Layer
    documents: tuple[Document, ...]
    recipe: BaseRecipe | None
    mistakes: tuple[Mistake, ...]

    def where(self, keys: Keys) -> Where:
        """The place of a key, or of its nearest parent that is written."""
        return place(self.layer.origins, keys, str(self.path))

    def finished(self) -> RecipeFile:
        """The recipe. Raises RecipeError with the mistakes that keep it from being one."""
        if self.mistakes or self.recipe is None:
            raise RecipeError(self.mistakes)
        return RecipeFile(self.path, self.path.parent, self.recipe, self.documents, self.layer.origins)


def load_recipe(path: str | Path, sets: Sequence[str] = ()) -> RecipeFile:
    """Read a recipe, with what it extends and with `--set key.path=value` laid over it, and validate it.

    Raises RecipeError with every mistake that was found, in the order of the files.
    """
    draft = read_draft(Path(path), lambda layer: overridden(layer, sets))
    strays = tuple(_stray(draft.where(keys), keys, name) for keys, name in stages_named(draft.layer.tree))
    files = [str(document.path) for document in draft.documents]
    return replace(draft, mistakes=tuple(in_order([*draft.mistakes, *strays], files))).finished()


def read_draft(
    path: Path, lay_over: Callable[[Layer], tuple[Layer, list[Mistake]]], address: str | None = None
) -> Draft:
    """Read a recipe with what it extends and with what `lay_over` lays over that, and judge it; `stage:NAME`
    is taken as it stands. `address` is the recipe's in a catalogue, where it is from one.

    Raises RecipeError where the file cannot be read, or is a pipeline.
    """
    layers = read_layers(path, address)
    layer, malformed = lay_over(layers.merged)
    tree, mixed = _without_stages(layer.tree, lambda keys: place(layer.origins, keys, str(path)))
    recipe, rejected = _validated(tree, lambda keys: place(layer.origins, keys, str(path)))
    if not layers.complete:  # what is missing may stand in the base that could not be read
        rejected = [mistake for mistake in rejected if mistake.kind != "missing_key"]
    files = [str(document.path) for document in layers.documents]
    mistakes = in_order([*layers.mistakes, *malformed, *mixed, *rejected], files)
    return Draft(path, layer, layers.documents, recipe, tuple(mistakes))


def _without_stages(
    tree: dict[str, Any], find: Callable[[Keys], Where]
) -> tuple[dict[str, Any], list[Mistake]]:
    if "stages" not in tree:
        return tree, []
    if "method" not in tree:
        message = "This is a pipeline, and one recipe is asked for here."
        raise RecipeError(
            [Mistake("stage_broken", message, find(("stages",)), "Name the recipe of one of its stages.")]
        )
    rest = {key: value for key, value in tree.items() if key != "stages"}
    return rest, [both_kinds(find(("stages",)))]


def both_kinds(where: Where) -> Mistake:
    """The mistake of a file that is a recipe and a pipeline at once."""
    message = "A recipe has a `method:` and a pipeline has `stages:`; this file has both."
    fix = "Put what the method needs into a recipe of its own, and name it: `stages: {sft: {recipe: sft.yaml}}`."
    return Mistake("stage_broken", message, where, fix)


def _stray(where: Where, keys: Keys, name: str) -> Mistake:
    message = f"`{dotted(keys)}` is `stage:{name}`, and this recipe is run alone: stages are a pipeline's."
    fix = (
        f"Name a model here (`tiny`, a folder, a hub id, `run:NAME`), and write `set: {{{dotted(keys)}: "
        f"stage:{name}}}` in the pipeline."
    )
    return Mistake("stage_unknown", message, where, fix)


def method_names() -> list[str]:
    """The methods that there are: each is a module of `ftrun.schemas.methods`."""
    return sorted(module.name for module in pkgutil.iter_modules(methods.__path__))


def _validated(
    tree: dict[str, Any], find: Callable[[Keys], Where]
) -> tuple[BaseRecipe | None, list[Mistake]]:
    """The recipe, or None, and what is wrong. Without a method, what no method changes is still judged."""
    kind, mistakes = _kind_of(tree, find)
    tables = {"model.lora": read_table("lora")}
    if kind is BaseRecipe:
        tree = {key: value for key, value in tree.items() if key in BaseRecipe.model_fields}
    else:
        tables["training"] = read_table(tree["method"])
    tree, complaints = _with_settings(tree, tables)
    recipe, error = None, None
    try:
        recipe = kind.model_validate(tree, strict=True)
    except ValidationError as caught:
        error = caught
    if error or complaints:
        homes = homes_of(kind, {section: table.fields for section, table in tables.items()})
        mistakes += [_mistake(keys, complaint, homes, find) for keys, complaint in complaints]
        rejected = mistakes_of(error, Ground(kind, tree, homes, find)) if error else ()
        mistakes += [one for one in rejected if kind is not BaseRecipe or not _is_of_method(one)]
    return recipe, mistakes


def _is_of_method(mistake: Mistake) -> bool:
    return (mistake.where.key or "").partition(".")[0] in ("method", "data")


def _kind_of(
    tree: Mapping[str, Any], find: Callable[[Keys], Where]
) -> tuple[type[BaseRecipe], list[Mistake]]:
    known, method = method_names(), tree.get("method")
    if method in known:
        kind: type[BaseRecipe] = importlib.import_module(f"ftrun.schemas.methods.{method}").Recipe
        return kind, []
    names = " or ".join(f"`{name}`" for name in known)
    if method is None:
        fix = f"Add `method:` with {names}."
        return BaseRecipe, [Mistake("missing_key", "`method` is missing.", find(("method",)), fix)]
    near = nearest(method, known, cutoff=0.5) if isinstance(method, str) else None
    message = f"`method` must be {names}, and is {quoted(method)}."
    fix = f"Did you mean `{near}`?" if near else "Write one of these."
    return BaseRecipe, [Mistake("out_of_range", message, find(("method",)), fix)]


def _with_settings(
    tree: dict[str, Any], tables: Mapping[str, Table]
) -> tuple[dict[str, Any], list[tuple[Keys, Complaint]]]:
    """The tree with the sections that have a table as that table reads them."""
    complaints: list[tuple[Keys, Complaint]] = []
    for section, table in tables.items():
        *above, name = section.split(".")
        holder = tree.get(above[0]) if above else tree
        if isinstance(holder, dict) and isinstance(values := holder.get(name), dict):
            usable, found = judge(values, table)
            complaints += [((*above, name, *complaint.path), complaint) for complaint in found]
            holder = {**holder, name: usable}
            tree = {**tree, above[0]: holder} if above else holder
    return tree, complaints


def _mistake(keys: Keys, complaint: Complaint, homes: Homes, find: Callable[[Keys], Where]) -> Mistake:
    fix = complaint.fix
    if complaint.kind == "unknown_key" and len(complaint.path) == 1:
        fix = home_for(str(keys[-1]), keys[:-1], homes) or fix
    return Mistake(complaint.kind, complaint.message, find(keys), fix)


def in_order(mistakes: Iterable[Mistake], files: Sequence[str]) -> list[Mistake]:
    """By file, the recipe first and the command line last, then by line; each mistake once."""

    def position(mistake: Mistake) -> tuple[int, int, int]:
        where = mistake.where
        file = files.index(where.file) if where.file in files else len(files)
        return file, where.line or 0, where.column or 0

    return sorted(dict.fromkeys(mistakes), key=position)
