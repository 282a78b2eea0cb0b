"""The five stages of the climb, each with what the one before knew and what it adds.

    AtRecipe → AtEnvironment → AtData → AtModel → AtStep

The runner builds a stage with the code that training uses, and only if a check waits for it. Building may
fail: `RecipeFailed`, `DataFailed` or `ModelFailed` then stands where the stage would be, and the checks that
wait for the failure say why. Stages are neither compared nor printed, so they are spared the methods for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ftrun.checks.course import Course
from ftrun.checks.rows import Rows, SourceCount, SourceHead, SourceRows
from ftrun.schemas.load import RecipeFile
from ftrun.schemas.mistake import Mistake, Where
from ftrun.schemas.sections import BaseRecipe, Source

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, Trainer


@dataclass(frozen=True)
class Device:
    """An accelerator that torch can use."""

    name: str
    memory: int
    """Bytes in all."""

    free: int
    """Bytes free now."""

    bf16: bool
    fp16: bool


@dataclass(frozen=True)
class Place:
    """Which process of how many this is, as whoever started it says in its environment."""

    count: int = 1
    """All of the run."""

    rank: int = 0
    """This one, from 0."""

    local_count: int = 1
    """Those on this machine that share its GPUs: each takes the one of its own number."""

    machines: int | None = None
    """Machines that they are spread over; None where nobody says."""

    strategy: str | None = None
    """The strategy that `accelerate launch` brings; None where it brings none."""

    from_outside: bool = False
    """Whether a launcher other than ftrun started it."""


@dataclass(frozen=True)
class Machine:
    """What there is to run on."""

    packages: Mapping[str, str | None]
    """Version of each package that ftrun builds on; None where it is not installed."""

    tested: Mapping[str, str]
    """The range of versions that ftrun is tested with, as `>=1.2,<2`."""

    torch_error: str | None
    """Why torch cannot be imported; None where it can."""

    torch_cuda: str | None
    """CUDA version that torch was built with; None for a CPU build."""

    driver: str | None
    """Version of the NVIDIA driver; None where there is none."""

    driver_cuda: str | None
    """Newest CUDA version that the driver runs; None where it is unknown."""

    nvidia_devices: int
    """NVIDIA devices that the operating system shows, whether or not torch can use them."""

    visible_devices: str | None
    """CUDA_VISIBLE_DEVICES as set; None where it is not."""

    devices: tuple[Device, ...]
    """Devices that torch can use. Empty: the CPU."""

    cpu_count: int
    free_disk: int
    """Bytes free where the output folder is."""

    place: Place = Place()
    """Which process of the run looks at it."""


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


Phase = Literal["batch", "forward", "backward", "update"]


@dataclass(frozen=True)
class Step:
    """What one step did, before everything was put back."""

    failed: Phase | None = None
    """The first phase that raised."""

    error: BaseException | None = None
    batch: Mapping[str, Any] | None = None
    """The collated batch, as the data loader gave it."""

    loss: float | None = None
    gradients: Mapping[str, float | None] | None = None
    """Norm of the gradient of each trainable parameter before clipping; None where there is none."""

    changed: frozenset[str] | None = None
    """Parameters that the optimizer step changed, of all parameters of the model."""

    changed_share: float | None = None
    """Share of the trainable elements with a gradient other than zero whose value that step changed."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    """What TRL's trainer collected in the forward pass for its next log, by its names."""

    reference_changed: frozenset[str] | None = None
    """Parameters that the optimizer step changed of a reference that is a model of its own."""


@dataclass(frozen=True)
class LongestBatch:
    """What a forward and backward pass on the longest rows did, with the optimizer's state in memory."""

    rows: int
    tokens: int
    """Tokens of the longest row."""

    peak: int
    """Bytes allocated on the device at most."""

    total: int
    """Bytes of the device."""

    error: BaseException | None = None


@dataclass(frozen=True)
class Learning:
    """What optimizer steps on a few short rows of the first batch did, from the start of the run, at the peak rate.

    Pairs of numbers are those before the first step and after the last one, in evaluation.
    """

    losses: tuple[float, ...]
    """The loss of training at each step."""

    evaluated: tuple[float, float]
    """The loss of these rows."""

    accuracy: tuple[float, float] | None
    """The share of its pairs whose chosen side is the better one, where the batch holds pairs."""

    moved: float
    """How far the trained weights are from where they were, as a share of their norm."""

    floor: float
    """The lowest loss that the batch allows: above 0 where what is equal so far goes on differently."""

    own: tuple[float, float] | None = None
    """What the answers cost, in nats per token or answer: with their own prompts …"""

    exchanged: tuple[float, float] | None = None
    """… and with each other's. None where prompts cannot be exchanged."""

    kept: str = ""
    """Why prompts are not exchanged."""


@dataclass(frozen=True)
class Experiments:
    """What the model shows when it is asked twice in other ways, after one optimizer step; all is put back.

    An experiment that was not made is None, and `skipped` has the reason under its name.
    """

    updated: tuple[float, float] | None = None
    """The loss of the first batch, and after one optimizer step on it at the peak learning rate."""

    repeated: tuple[float, float] | None = None
    """The loss of the first batch in evaluation, twice."""

    divided: tuple[float, float] | None = None
    """The loss of the first batch, and that of its two halves, weighed by their trained tokens."""

    accumulated: tuple[float, float] | None = None
    """What the first batch gives to the loss of an optimizer step of several, and its share of their tokens
    times its own loss."""

    packed: float | None = None
    """The largest change of a logit of the second document of a pack when the first is another."""

    reloaded: tuple[float, float] | None = None
    """The largest difference between the logits of the model, its trained weights moved, and of the same model
    saved and loaded; and how far moving the weights changed the logits."""

    tokenizer: tuple[str, ...] | None = None
    """What is otherwise in the tokenizer once it is saved and loaded."""

    longest: LongestBatch | None = None
    learnt: Learning | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)


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
