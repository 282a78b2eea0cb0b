"""What a recipe that is a stage of a pipeline knows of the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ftrun.schemas.nodes import dotted
from ftrun.schemas.pipeline import PipelineFile


@dataclass(frozen=True)
class Course:
    """A pipeline, and which of its stages is looked at."""

    pipeline: PipelineFile
    stage: str

    @property
    def inputs(self) -> Mapping[str, str]:
        """The stages whose models this one takes, by the dotted key that names each."""
        (own,) = (one for one in self.pipeline.stages if one.name == self.stage)
        return {dotted(keys): name for keys, name in own.inputs.items()}
