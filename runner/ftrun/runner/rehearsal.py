"""The stages of a pipeline checked before the first one trains.

A stage that takes the model of an earlier one is checked with a stand-in for it: a folder with the earlier
stage's configuration, tokenizer and chat template, which training does not change, and without weights. So the
climb of such a stage ends at its data.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ftrun.checks.check import Check
from ftrun.checks.course import Course
from ftrun.checks.engine import skipped
from ftrun.checks.stages import STAGES, AtData, AtEnvironment, AtRecipe
from ftrun.runner.preflight import Ascent, ascend_file
from ftrun.schemas.pipeline import PipelineFile, StageFile
from ftrun.schemas.references import with_models


def rehearse(
    pipeline: PipelineFile,
    *,
    checks: Sequence[Check],
    scratch: Path | None = None,
    ignore: Mapping[str, str] | None = None,
    upto: type[AtRecipe] = AtRecipe,
    announce: Callable[[str], None] = lambda stage: None,
) -> Iterator[Ascent]:
    """Climb with each stage in turn, as far as `upto` and, where it takes an earlier one's model, its data.

    `scratch` receives the stand-ins, and what a trainer writes; the recipe stage needs none.
    """
    models: dict[str, str] = {}
    for stage in pipeline.stages:
        missing = [name for name in stage.inputs.values() if name not in models]
        file, last = stage.file, upto
        if stage.inputs and not missing:
            file = replace(file, recipe=with_models(file.recipe, models))
        if stage.inputs:
            last = _lower(upto, AtEnvironment if missing else AtData)
        ascent = ascend_file(
            file,
            checks=checks,
            folder=None if scratch is None else lambda _: scratch / "trainer",
            ignore=ignore,
            upto=last,
            needed=last if scratch is not None else AtRecipe,
            after=partial(_on_course, Course(pipeline, stage.name)),
            announce=partial(_announce, announce, stage),
        )
        if scratch is not None and isinstance(ascent.at, AtData):
            models[stage.name] = str(write_stand_in(ascent.at, scratch / stage.name))
        yield _named(ascent, pipeline, stage, checks, missing if last is not upto else [])
        del ascent
        gc.collect()  # the model goes before the next is loaded: two may not fit


def _on_course(course: Course, at: Any) -> Any:
    """The recipe's stage of a climb, with the pipeline; later ones have it from there."""
    return replace(at, course=course) if type(at) is AtRecipe else at


def _announce(announce: Callable[[str], None], stage: StageFile, name: str) -> None:
    announce(f"{name} of {stage.name}")


def write_stand_in(at: AtData, folder: Path) -> Path:
    """A model folder without weights: what a stage's model will be as far as rows are concerned."""
    from transformers import GenerationConfig

    config = at.model_config
    if (
        at.recipe.method == "reward"
    ):  # the head of one score, which the stage puts where the language head was
        config = deepcopy(config)
        config.num_labels = 1
        config.architectures = [
            name.replace("ForCausalLM", "ForSequenceClassification") for name in config.architectures or ()
        ]
    config.save_pretrained(folder)
    at.tokenizer.save_pretrained(folder)
    GenerationConfig(eos_token_id=sorted(at.stop_ids)).save_pretrained(folder)
    return folder


def _lower(one: type[AtRecipe], other: type[AtRecipe]) -> type[AtRecipe]:
    return min(one, other, key=STAGES.index)


def _named(
    ascent: Ascent, pipeline: PipelineFile, stage: StageFile, checks: Sequence[Check], missing: Sequence[str]
) -> Ascent:
    """With the stage named in the report, and the checks that an unfinished earlier stage keeps waiting."""
    report = replace(ascent.report, pipeline=str(pipeline.path), pipeline_stage=stage.name)
    if missing and report.method is not None:
        reason = f"since the stage {missing[0]}, whose model it takes, cannot be prepared"
        waiting = skipped(checks, AtData, method=report.method, reason=reason)
        report = replace(report, results=[*report.results, *waiting])
    return replace(ascent, report=report)
