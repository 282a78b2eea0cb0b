"""The plan as a person reads it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ftrun.runner.facts import describe_count
from ftrun.runner.plan.curve import draw_curve
from ftrun.runner.plan.memory import GIB, Memory
from ftrun.runner.plan.outline import Duration, Plan
from ftrun.runner.plan.settings import Setting
from ftrun.runner.printing.text import ASCII, format_clock, has_blocks, make_console

MOMENTS = {
    "forward": "in the forward pass",
    "head": "at the start of the backward pass",
    "update": "in the optimizer's step",
    "rollout": "while answers are generated",
}


def print_plans(plans: Iterable[Plan]) -> None:
    """Print plans one after the other, with headings in bold on a terminal."""
    console, unicode = make_console(), has_blocks()
    for plan in plans:
        for line in format_plan(plan, unicode=unicode):
            shown = line if unicode else line.translate(ASCII)
            console.print(shown, style="bold" if line and not line.startswith(" ") else None)


def format_plan(plan: Plan, *, unicode: bool) -> Iterator[str]:
    """The lines of a plan."""
    stage = "" if plan.pipeline_stage is None else f"{plan.pipeline}, stage {plan.pipeline_stage}: "
    yield f"{stage}{plan.recipe} ({plan.method})"
    yield from _block("Settings", list(_settings(plan.settings)))
    yield from _block("Data", list(_data(plan)))
    yield from _block("Steps", list(_steps(plan, unicode)))
    yield from _block("Model", list(_model(plan)))
    if plan.memory is not None:
        yield from _block("Memory", [*_memory(plan.memory), *plan.notes])
    if plan.duration is not None:
        yield from _block("Time", list(_duration(plan.duration)))
    yield from _block("Not told", [f"{gap.what}: {gap.why}" for gap in plan.gaps])
    yield ""


def _block(heading: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield heading
        yield from (f"  {line}" for line in lines)


def _settings(settings: Sequence[Setting]) -> Iterator[str]:
    shown = [(one.key, _show(one.value), one.origin) for one in settings]
    wide = [min(44, max(len(row[column]) for row in shown)) for column in (0, 1)]
    for key, value, origin in shown:
        yield f"{key:<{wide[0]}}  {value:<{wide[1]}}  {origin}"


def _show(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _data(plan: Plan) -> Iterator[str]:
    for source in plan.sources:
        yield describe_count(source.count)
        yield f"  format {source.format}, loss on {source.loss_on} ({source.loss_reason})"
    found = plan.batches
    if found is not None:
        what = "rollouts" if plan.method == "ppo" else "micro-batches"
        first = "" if found.seen == found.number else f" (of the first {found.seen:,})"
        yield (
            f"{found.number:,} {what} an epoch, longest row {found.longest:,} tokens; padding is "
            f"{found.waste:.1%} of what is computed{first}"
        )


def _steps(plan: Plan, unicode: bool) -> Iterator[str]:
    calendar = plan.calendar
    if calendar is None:
        return
    yield calendar.arithmetic
    if plan.schedule is not None:
        curve = draw_curve(plan.schedule.factors, unicode=unicode)
        last = plan.schedule.peak * plan.schedule.factors[-1]
        warmup = f"{calendar.warmup:,} steps of warmup" if calendar.warmup else "no warmup"
        yield f"{plan.schedule.kind}: peak {plan.schedule.peak:g}, {warmup}, ends at {last:.2g}"
        yield f"  {curve}"
    held = [one for one in plan.sources if one.count.split == "eval"]
    rows = sum(one.count.kept for one in held)
    if calendar.evaluations:
        yield f"{len(calendar.evaluations)} evaluations of {rows:,} rows, after {_list(calendar.evaluations)}"
    else:
        yield "no evaluation while it trains" + (f"; {rows:,} rows are held out" if rows else "")
    if calendar.saves:
        size = ""
        if plan.parameters is not None:
            size = (
                f"; {_size(plan.parameters.checkpoint)} each, {calendar.kept} kept: "
                f"{_size(plan.parameters.checkpoint * calendar.kept)} on disk"
            )
        yield f"{len(calendar.saves)} checkpoints, after {_list(calendar.saves)}{size}"
    else:
        yield "no checkpoint"


def _list(steps: Sequence[int]) -> str:
    shown = [f"{step:,}" for step in steps]
    return ", ".join(shown if len(shown) <= 6 else [*shown[:3], "…", shown[-1]])


def _model(plan: Plan) -> Iterator[str]:
    found = plan.parameters
    if found is not None:
        share = found.trained / max(1, found.total)
        yield f"{found.trained:,} of {found.total:,} parameters train ({share:.2%}, {found.how})"


def _memory(found: Memory) -> Iterator[str]:
    moment = MOMENTS.get(found.moment, "in the backward pass")
    batch = f"a micro-batch of {found.rows:,} × {found.tokens:,} tokens"
    yield f"peak {_size(found.peak)} {moment}, with {batch} ({found.how})"
    is_alone = len(found.models) == 1
    parts = {
        **{"weights" if is_alone else f"weights, {name}": size for name, size in found.models.items()},
        "optimizer": found.optimizer,
        "gradients": found.gradients,
        "activations for the backward pass": found.activations,
        "logits and what soon goes" if found.activations else "activations and logits": found.other,
    }
    parts = {name: size for name, size in parts.items() if size}
    width = max(len(name) for name in parts)
    for name, size in parts.items():
        yield f"  {name:<{width}}  {_size(size):>10}"
    if found.measured is not None:
        yield f"measured on the longest batch: {_size(found.measured)}"
    room = found.room
    verdict = "fits" if found.fits else "does not fit"
    yield f"{verdict} into {room.device}: {_size(room.usable)} of {_size(room.total)} are for tensors"
    if found.largest is None:
        yield "not even one row fits: try gradient_checkpointing, a shorter max_length, LoRA or a smaller model"
    else:
        best = found.largest
        yield (
            f"largest micro-batch at the same effective batch: {best.rows:,} × {best.accumulation:,} steps of "
            f"accumulation, peak {_size(best.peak)}"
        )


def _duration(found: Duration) -> Iterator[str]:
    rollout = f", rollout {_seconds(found.rollout)}" if found.rollout else ""
    yield f"micro-batch {_seconds(found.micro_batch)}, update {_seconds(found.update)}{rollout}"
    evaluation = f", of which {_seconds(found.evaluation)} evaluate" if found.evaluation else ""
    yield f"{_seconds(found.total)} in all{evaluation}, on this machine as it is now"


def _seconds(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    return format_clock(seconds)


def _size(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"
