"""What every mapping in a recipe is.

The docstring under a field is its documentation: it reaches the JSON Schema and so the user's editor.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A mapping in a recipe: unknown keys are mistakes, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, protected_namespaces=())
