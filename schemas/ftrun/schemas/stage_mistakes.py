"""What the stages of a pipeline get wrong about each other, as mistakes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ftrun.schemas.load import Draft
from ftrun.schemas.mistake import Mistake, Where
from ftrun.schemas.nodes import dotted
from ftrun.schemas.references import stages_named
from ftrun.schemas.spelling import nearest


def tell_of_stage(mistake: Mistake, at: Where, name: str, file: Path) -> Mistake:
    """A recipe that is not there or is none is told at the line that names it, one with a mistake in its own
    text at its own."""
    if mistake.kind == "stage_broken":
        fix = "Name the recipes of its stages here, each as a stage of this pipeline."
        message = f"The stage `{name}` names another pipeline, `{file}`; a stage is one recipe."
        return Mistake("stage_broken", message, at, fix)
    if mistake.kind == "recipe_unreadable" and mistake.where.line is None:
        message = f"The recipe of the stage `{name}` cannot be used, `{file}`. {mistake.message}"
        return replace(mistake, kind="stage_broken", message=message, where=at)
    return mistake


def find_unknown_stages(name: str, draft: Draft, names: Sequence[str]) -> Iterator[Mistake]:
    """A mistake for each `stage:NAME` of a stage that names no earlier one."""
    earlier = list(names[: names.index(name)])
    for keys, wanted in stages_named(draft.layer.tree):
        if wanted in earlier:
            continue
        near = nearest(wanted, earlier)
        if wanted == name:
            reason = "which is this stage itself"
        elif wanted in names:
            reason, near = "which comes later", None
        else:
            reason = "and there is no stage of that name"
        if near:
            fix = f"Did you mean `stage:{near}`?"
        elif wanted in names and wanted != name:
            fix = f"Move `{wanted}` before `{name}`" + (
                f", or name one of {_shown(earlier)}." if earlier else "."
            )
        elif earlier:
            fix = f"Name an earlier stage: {_shown(earlier)}."
        else:
            fix = "The first stage has none before it: name a model (`tiny`, a folder, a hub id, `run:NAME`)."
        message = f"`{dotted(keys)}` of the stage `{name}` is `stage:{wanted}`, {reason}."
        yield Mistake("stage_unknown", message, draft.where(keys), fix)


def find_unequal_counts(drafts: Mapping[str, Draft | None]) -> Iterator[Mistake]:
    """A mistake for each stage that asks for another number of processes or machines than the first."""
    read = [(name, draft, draft.recipe) for name, draft in drafts.items() if draft is not None]
    asked = [(name, draft, recipe.launch) for name, draft, recipe in read if recipe is not None]
    for name, draft, launch in asked[1:]:
        first, _, wanted = asked[0]
        for key, count, other in (
            ("processes", launch.processes or 1, wanted.processes or 1),
            ("machines", launch.machines, wanted.machines),
        ):
            if count != other:
                message = (
                    f"`launch.{key}` of the stage `{name}` is {count}, and that of `{first}` is {other}; the same "
                    "processes run all stages."
                )
                fix = f"Write `launch: {{{key}: …}}` into the pipeline, which holds for all of them."
                yield Mistake("stage_broken", message, draft.where(("launch", key)), fix)


def _shown(names: Sequence[str]) -> str:
    return ", ".join(f"`stage:{name}`" for name in names)
