"""The rows cannot be read, rendered or tokenised.

Symptom: the run stops before it starts, with an error about a file, a column, a template or the tokenizer.
Cause: a path or a column that is not there, a format that does not fit, a conversation that the chat template
refuses, or a model folder without a tokenizer.
Fix: correct what the message names, in the recipe or in the file.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.stages import DataFailed
from ftrun.schemas.errors import FtrunError, ModelError
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("DATA004", title="the rows can be read, rendered and tokenised")
def data_cannot_be_prepared(failed: DataFailed) -> Iterator[Finding]:
    error = failed.error
    evidence: tuple[str, ...] = ()
    if isinstance(error, FtrunError):
        text, fix = str(error), "Correct what the message names."
        if isinstance(error, ModelError):
            fix = "Correct the model section, or the model's folder, as the message says."
    else:
        text = f"Preparing the rows failed with {type(error).__name__}: {error}"
        fix = "Look at the rows that the message names; if they are in order, report it as a fault of ftrun."
        frames = traceback.extract_tb(error.__traceback__)[-1:]
        evidence = tuple(f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames)
    yield Finding(message=text, fix=fix, where=_find(failed, text), evidence=evidence)


def _find(failed: DataFailed, text: str) -> Where:
    """The source that the message begins with, else the first key of the recipe that it names."""
    paths = {head.key: head.label for head in failed.heads}
    named = [
        (len(path), key)
        for key, path in paths.items()
        if text.startswith((f"{path} ", f"{path}:", f"{path}/", f"{Path(path).name} "))
    ]
    if named:
        return failed.where(max(named)[1])
    key = re.search(r"\b(?:model|data|training)\.[a-z_]+(?:\.[a-z_]+)*", text)
    return failed.where(key.group() if key else "data")


@data_cannot_be_prepared.fault
def column_is_not_there(world: World) -> None:
    world.recipe["data"]["train"][0]["columns"] = {"prompt": "question"}


@data_cannot_be_prepared.fault
def template_refuses_a_role(world: World) -> None:
    world.rows = [{"messages": [{"role": "robot", "content": "a"}, {"role": "assistant", "content": "b"}]}]
