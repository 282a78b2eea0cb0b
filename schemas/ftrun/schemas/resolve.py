"""What follows from a recipe: its defaults, and the digest that names it. Pure: no clock, no randomness."""

from __future__ import annotations

import json
import math
from typing import Any, TypeVar

from ftrun.schemas.sections import BaseRecipe
from ftrun.schemas.settings import defaults, read_table

RecipeT = TypeVar("RecipeT", bound=BaseRecipe)

_MAX_EXACT = 2**53  # whole floats are exact up to here


def resolve(recipe: RecipeT) -> RecipeT:
    """The recipe with nothing left open: every setting of the trainer, and the experiment it is tracked in.

    What is written wins. `model.lora` stays as written.
    """
    training = {**defaults(read_table(recipe.method)), **recipe.training}
    experiment = recipe.name if recipe.tracking.experiment is None else recipe.tracking.experiment
    tracking = recipe.tracking.model_copy(update={"experiment": experiment})
    return recipe.model_copy(update={"training": training, "tracking": tracking})


def digest(recipe: BaseRecipe) -> str:
    """SHA-256, in hexadecimal, of the recipe as canonical JSON: keys sorted, no spaces, floats in their
    shortest exact form, whole ones as integers (`1.0` means what `1` means), and NaN and infinities, which
    JSON lacks, as `{"float": "nan"}`. `launch` is left out: it says on what the same thing is trained."""
    import hashlib  # 3 ms that a validation need not wait for

    named = recipe.model_dump(exclude={"launch"})
    text = json.dumps(_canonical(named), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return {"float": repr(value)}
    return int(value) if value.is_integer() and abs(value) < _MAX_EXACT else value
