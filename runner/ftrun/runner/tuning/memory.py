"""What memory allows on a GPU: activations that are kept, and the largest micro-batch."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from ftrun.checks.stages import AtData, Choice
from ftrun.runner.plan.memory import Room, find_largest, find_room
from ftrun.runner.tuning.batches import read_lengths
from ftrun.runner.tuning.rules import CHECKPOINTING, is_open, may_divide

ENOUGH = 2048
"""Tokens of a micro-batch from which on a GPU gains more from keeping activations than from more rows. A guess."""


def choose_memory(at: AtData) -> tuple[int | None, list[Choice]]:
    """The largest micro-batch that fits, None where that is not known, and whether activations are kept.

    A model that processes share has no prediction: its activations are checkpointed, as TRL does.
    """
    open_here = is_open(at, CHECKPOINTING)
    if at.recipe.launch.strategy != "ddp" or not (open_here or may_divide(at)):
        return None, []
    room = find_room(at.machine, None)
    assert room is not None, "a GPU has its memory"
    training = at.recipe.training
    if not open_here:
        return _find_largest(at, room, checkpointed=training["gradient_checkpointing"]), []
    rows = needed = training["per_device_train_batch_size"]
    if may_divide(at):
        needed = min(rows, -(-ENOUGH // int(read_lengths(at.train_dataset).max(initial=1))))
    kept = _find_largest(at, room, checkpointed=False)
    if kept is not None and kept >= needed:
        return kept, [Choice(CHECKPOINTING, False, f"the run fits into {room.device} without")]
    why = f"the run does not fit into {room.device} without"
    return _find_largest(at, room, checkpointed=True), [Choice(CHECKPOINTING, True, why)]


def _find_largest(at: AtData, room: Room, *, checkpointed: bool) -> int | None:
    from ftrun.runner.plan.prediction import prepare_prediction

    training = {**at.recipe.training, "gradient_checkpointing": checkpointed}
    supposed = replace(
        at,
        recipe=at.recipe.model_copy(update={"training": training}),
        choices=(*at.choices, Choice(CHECKPOINTING, checkpointed, "supposed")),
    )
    with tempfile.TemporaryDirectory() as folder:
        prediction = prepare_prediction(supposed, Path(folder), cuda=True)
        found = find_largest(
            lambda rows, steps: prediction.predict(rows, accumulate=steps > 1).peak,
            training["per_device_train_batch_size"],
            training["gradient_accumulation_steps"],
            room,
        )
    return None if found is None else found.rows
