"""The parts of a plan, each as far as the climb came."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftrun.checks.examples import spread
from ftrun.checks.machine import Device
from ftrun.checks.stages import STAGE_NAMES, AtData, AtEnvironment, AtStep
from ftrun.runner.plan.memory import Memory, Room, describe_memory, find_largest, find_room
from ftrun.runner.plan.outline import Gap, Parameters, Plan, Schedule, Source
from ftrun.runner.plan.settings import derive_settings, list_choices, list_settings
from ftrun.schemas.errors import first_line

if TYPE_CHECKING:
    from ftrun.runner.plan.footprint import Footprint
    from ftrun.runner.plan.prediction import Prediction
    from ftrun.runner.preflight import Ascent

SAMPLE = 2000
"""Steps at which the schedule is read."""


def make_plan(ascent: Ascent, folder: Path, *, memory: int | None, missing: Exception | None) -> Plan:
    """The plan of a recipe that was read. `memory` is that of another device to plan for, in bytes; `missing`
    says which packages the plan has to do without."""
    at, report = ascent.at, ascent.report
    assert at is not None, "a recipe that cannot be read has no plan"
    at = plan_for(at, memory)
    plan = Plan(
        recipe=report.recipe,
        pipeline=report.pipeline,
        pipeline_stage=report.pipeline_stage,
        method=at.recipe.method,
        stage=STAGE_NAMES[type(at)],
        settings=tuple(list_settings(at, report.pipeline, folder)),
    )
    if isinstance(at, AtEnvironment):
        plan = replace(plan, settings=(*plan.settings, *list_choices(at), *derive_settings(at)))
    if isinstance(at, AtData):
        return _plan_data(plan, at, folder, memory)
    why = (
        str(missing)
        if missing
        else "; ".join(one.message for one in report.findings) or "it was not asked for"
    )
    gaps = [Gap("rows, steps and schedule", why)]
    from ftrun.runner.plan.closed import estimate

    try:
        found, parameters = estimate(at, memory)
    except ValueError as error:
        return replace(plan, gaps=(*gaps, Gap("parameters and memory", str(error))))
    return replace(plan, memory=found, parameters=parameters, gaps=tuple(gaps))


def plan_for(at: Any, memory: int | None) -> Any:
    """The stage on a machine with one GPU of that memory, where one is asked for, with what is chosen for that."""
    if memory is None or not isinstance(at, AtEnvironment):
        return at
    room = find_room(None, memory)
    assert room is not None
    device = Device(room.device, memory, memory, bf16=True, fp16=True)
    at = replace(at, machine=replace(at.machine, devices=(device,)))
    if not isinstance(at, AtData):
        return at
    from ftrun.runner.tuning.choices import tune

    return tune(at)


def _plan_data(plan: Plan, at: AtData, folder: Path, memory: int | None) -> Plan:
    from ftrun.runner.plan.calendar import make_calendar

    calendar = make_calendar(at)
    plan = replace(plan, sources=tuple(_sources(at)), calendar=calendar)
    room = find_room(at.machine, memory)
    try:
        plan = _plan_model(plan, at, folder, room)
    except Exception as error:  # a build boundary: models fail to build in as many ways as there are of them
        why = f"the model cannot be built without its weights: {first_line(error)}"
        plan = replace(plan, gaps=(*plan.gaps, Gap("padding, schedule, parameters and memory", why)))
    if isinstance(at, AtStep) and at.step.failed is None:
        from ftrun.runner.plan.timing import time_run

        plan = replace(plan, duration=time_run(at, calendar))
    else:
        failed = isinstance(at, AtStep) and at.step.failed
        why = f"the {failed} of the dry step failed" if failed else "it takes the dry step: --upto step"
        plan = replace(plan, gaps=(*plan.gaps, Gap("time", why)))
    return plan


def _sources(at: AtData) -> Iterator[Source]:
    by_label = {one.label: one for one in at.sources}
    for count in at.counts:
        source = by_label[count.label]
        yield Source(count, source.format, source.loss_on, source.loss_reason)


def _plan_model(plan: Plan, at: AtData, folder: Path, room: Room | None) -> Plan:
    from ftrun.runner.plan.prediction import prepare_prediction
    from ftrun.runner.plan.rows import measure_batches

    prediction = prepare_prediction(at, folder, cuda=room is not None and room.cuda)
    found, parameters = _predict(prediction, at, room)
    training, repeats = at.recipe.training, 1
    if at.recipe.method == "ppo":
        repeats = (
            training["num_ppo_epochs"]
            * training["num_mini_batches"]
            * training["gradient_accumulation_steps"]
        )
    return replace(
        plan,
        batches=measure_batches(prediction.trainer, repeats=repeats),
        schedule=_read_schedule(prediction, at),
        parameters=parameters,
        memory=found,
        notes=prediction.left_out,
    )


def _predict(prediction: Prediction, at: AtData, room: Room | None) -> tuple[Memory | None, Parameters]:
    from ftrun.runner.plan.rows import longest_row

    training = at.recipe.training
    rows, accumulation = training["per_device_train_batch_size"], training["gradient_accumulation_steps"]

    @functools.cache
    def predict(size: int, steps: int) -> Footprint:
        return prediction.predict(size, accumulate=steps > 1)

    step = predict(rows, accumulation)
    state = 0 if training["save_only_model"] else step.optimizer
    parameters = Parameters(
        trained=step.trained,
        total=step.total,
        how="full" if at.recipe.model.lora is None else "LoRA",
        checkpoint=step.saved_weights + state,
    )
    if room is None:
        return None, parameters
    largest = find_largest(lambda size, steps: predict(size, steps).peak, rows, accumulation, room)
    longest = longest_row(prediction.trainer.train_dataset)
    if at.recipe.method == "ppo":
        longest += training["response_length"]
    found = describe_memory(step, room, rows=rows, tokens=longest, largest=largest, how="fake tensors")
    tried = at.experiments.longest if isinstance(at, AtStep) else None
    return replace(found, measured=None if tried is None else tried.peak), parameters


def _read_schedule(prediction: Prediction, at: AtData) -> Schedule | None:
    """The factors of the trainer's own schedule; None where it depends on the evaluation."""
    shapes = getattr(prediction.trainer.lr_scheduler, "lr_lambdas", None)
    if not shapes:
        return None
    return Schedule(
        kind=at.recipe.training["lr_scheduler_type"],
        peak=at.recipe.training["learning_rate"],
        factors=tuple(float(shapes[0](step)) for step in spread(at.steps, SAMPLE).tolist()),
    )
