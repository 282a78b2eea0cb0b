"""The five stages of the climb, each with what the one before knew and what it adds.

    AtRecipe → AtEnvironment → AtData → AtModel → AtStep

The runner builds a stage with the code that training uses, and only if a check waits for it. Building may
fail: `RecipeFailed`, `DataFailed` or `ModelFailed` then stands where the stage would be, and the checks that
wait for the failure say why. Stages are neither compared nor printed, so they are spared the methods for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

from ftrun.checks.course import Course
from ftrun.checks.experiments import Experiments, Step
from ftrun.checks.machine import Machine
from ftrun.checks.rows import Rows, SourceCount, SourceHead, SourceRows
from ftrun.schemas.load import RecipeFile
from ftrun.schemas.mistake import Mistake, Where
from ftrun.schemas.sections import BaseRecipe, Source

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, Trainer


@dataclass(frozen=True, eq=False, repr=False)
class AtRecipe:
    """The recipe alone."""

    recipe: BaseRecipe
    """Resolved: `training` holds every setting of the method's trainer, written or default."""

    file: RecipeFile
    heads: tuple[SourceHead, ...]
    """A first look at each source of rows."""

    course: Course | None = field(default=None, kw_only=True)
    """The pipeline that the recipe is a stage of; None where it runs alone, and once the stage's turn has come."""

    def where(self, key: str) -> Where:
        """The place of a dotted key in the recipe, or of its nearest parent that is written."""
        return self.file.where(key)

    def source(self, key: str) -> Source:
        """The source of rows at a key such as `data.train.0`."""
        _, section, index = key.split(".")
        source: Source = getattr(self.recipe.data, section)[int(index)]
        return source


@dataclass(frozen=True, eq=False, repr=False)
class AtEnvironment(AtRecipe):
    """And the machine."""

    machine: Machine

    @property
    def process_count(self) -> int:
        """How many train: as many as there are, else as many as the recipe says."""
        here = self.machine.place.count
        return here if here > 1 else self.recipe.launch.processes or 1


@dataclass(frozen=True)
class Choice:
    """A setting that the recipe leaves open, as ftrun settled it for this device, model and data."""

    key: str
    """Dotted, as in the recipe; without a dot where the recipe has no such setting."""

    value: Any
    reason: str


@dataclass(frozen=True, eq=False, repr=False)
class AtData(AtEnvironment):
    """And the rows, tokenised: all that the data loader will feed, before any weight is loaded."""

    model_folder: str
    """What `from_pretrained` is given: a local folder or a hub id."""

    model_config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    stop_ids: frozenset[int]
    """Ids at which generation with the trained model stops."""

    train: Rows
    eval: Rows | None
    sources: tuple[SourceRows, ...]
    counts: tuple[SourceCount, ...]
    train_dataset: Dataset
    """What the trainer is given: `train`, packed where the recipe says so."""

    eval_dataset: Dataset | None
    """The same of `eval`; for PPO as many of its prompts as each evaluation answers."""

    steps: int
    """Optimizer steps of the whole run."""

    choices: tuple[Choice, ...] = field(default=(), kw_only=True)
    """What ftrun chose; `recipe` has it."""


@dataclass(frozen=True)
class Process:
    """What one of the processes of a run is about to train, by digest."""

    weights: str
    """SHA-256 of the parameters that train."""

    rows: str
    """SHA-256 of the tokenised rows."""


@dataclass(frozen=True, eq=False, repr=False)
class AtModel(AtData):
    """And the model: weights, adapters, optimizer, in the trainer that will train."""

    trainer: Trainer
    model: PreTrainedModel
    load_report: Mapping[str, tuple[str, ...]]
    """Names of weights that loading found `missing`, `unexpected` or `mismatched`."""

    checkpoint_bytes: int
    """Size of one checkpoint: weights that are saved, optimizer state."""

    processes: tuple[Process, ...] = field(default=(), kw_only=True)
    """All processes of the run, by rank. Empty: one alone."""


@dataclass(frozen=True, eq=False, repr=False)
class AtStep(AtModel):
    """And what a forward pass, a backward pass and an optimizer step did."""

    step: Step
    experiments: Experiments


STAGES: tuple[type[AtRecipe], ...] = (AtRecipe, AtEnvironment, AtData, AtModel, AtStep)

STAGE_NAMES: Mapping[type[AtRecipe], str] = {
    AtRecipe: "recipe",
    AtEnvironment: "environment",
    AtData: "data",
    AtModel: "model",
    AtStep: "step",
}


@dataclass(frozen=True)
class RecipeFailed:
    """The recipe file cannot be read as a recipe."""

    mistakes: tuple[Mistake, ...]


@dataclass(frozen=True, eq=False, repr=False)
class DataFailed(AtEnvironment):
    """The rows could not be prepared."""

    error: Exception


@dataclass(frozen=True, eq=False, repr=False)
class ModelFailed(AtData):
    """The model could not be loaded or wrapped."""

    error: Exception


Wider = TypeVar("Wider", bound=AtRecipe)


def narrow(at: AtRecipe, stage: type[Wider], **changed: Any) -> Wider:
    """The stage before `at`, as another one is built on it: what `at` knew then, but for what is changed."""
    names = [one.name for one in fields(stage)]
    return stage(**{name: getattr(at, name) for name in names} | changed)


def widen(at: AtRecipe, stage: type[Wider], **added: Any) -> Wider:
    """The stage after `at`: all that `at` knows, and what is added."""
    return stage(**{one.name: getattr(at, one.name) for one in fields(at)}, **added)
