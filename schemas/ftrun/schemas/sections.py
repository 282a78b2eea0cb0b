"""The sections that recipes of every method share.

Validators judge and never rewrite; what follows from other values is derived by `ftrun.schemas.resolve`.

`training:` and `model.lora:` are not spelled out here. Their keys are those of TRL's configs and of PEFT's
LoraConfig, known from the generated tables in `tables/` and judged by `ftrun.schemas.settings`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from ftrun.schemas.guards import Guards
from ftrun.schemas.launch import Launch
from ftrun.schemas.section import Section

Format = Literal["auto", "messages", "prompt_completion", "alpaca", "sharegpt", "text"]
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
CHECK_ID = r"^[A-Z]{2,6}[0-9]{3}$"
CheckId = Annotated[str, Field(pattern=CHECK_ID)]


class Model(Section):
    """The model that is trained, and how it is loaded."""

    path: str = Field(min_length=1)
    """A hub id, a local folder (relative to this file), `tiny` (a small Llama built from a config, no network),
    `run:NAME` or `run:ID` for the model that a tracked run wrote, or `stage:NAME` in a pipeline. A folder may hold
    an adapter as PEFT writes it: it stands for the model that it merges to."""

    revision: str | None = None
    """Branch, tag or commit of a hub model."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights. `auto`: float32 for what is trained whole; bfloat16 for the frozen base under LoRA,
    where the device has it."""

    attention: Literal["auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3"] = "auto"
    """Attention implementation. `auto` leaves the choice to transformers."""

    quantization: Literal["4bit", "8bit"] | None = None
    """Quantise the frozen base weights with bitsandbytes (QLoRA). Needs `lora` and a GPU."""

    chat_template: str | None = None
    """Name of a chat template that TRL ships (`qwen3`, `llama3_training`, …) or a Jinja file relative to this
    one. Absent: the tokenizer's own."""

    trust_remote_code: bool = False
    """Run Python code that the model's repository brings. Off unless you have read that code."""

    lora: dict[str, Any] | None = None
    """LoRA, by the names of PEFT's LoraConfig. Absent: every weight is trained."""


class Source(Section):
    """Where rows come from."""

    path: str = Field(min_length=1)
    """A jsonl, json, csv, parquet or arrow file, a folder of such files, or the id of a hub data set.
    Files and folders are relative to this recipe."""

    name: str | None = None
    """Configuration (subset) of a hub data set."""

    revision: str | None = None
    """Branch, tag or commit of a hub data set."""

    split: str = "train"
    """Split of a hub data set or of a folder with splits."""

    format: Format = "auto"
    """What a row looks like. `auto` tells it from the columns."""

    columns: dict[str, str] = Field(default_factory=dict)
    """The format's column names, each with the name that it has in this file: `{prompt: question}`."""

    weight: float = Field(default=1.0, gt=0)
    """How often each row is seen per epoch: 2 repeats every row, 0.5 takes a random half (seeded)."""


class PairSource(Source):
    """Where pairs of answers come from."""

    format: Literal["auto", "preference"] = "auto"  # type: ignore[assignment]  # a method's own formats
    """What a row looks like: `preference`, an answer that is preferred and one that is not."""


class PromptSource(Source):
    """Where prompts come from."""

    format: Literal["auto", "prompts"] = "auto"  # type: ignore[assignment]  # a method's own formats
    """What a row looks like: `prompts`, a text or a list of messages that asks for an answer."""


class Fraction(Section):
    """Rows held out of the training data."""

    fraction: float = Field(gt=0, lt=1)
    """Share of the training rows, chosen by the seed."""


class Data(Section):
    """The rows of a run."""

    train: list[Source] = Field(min_length=1)
    """One source or several."""

    eval: Fraction | list[Source] | None = None
    """Rows for evaluation: a fraction of the training rows, or sources of their own."""


class PairData(Data):
    """The pairs of a run."""

    train: list[PairSource] = Field(min_length=1)  # type: ignore[assignment]  # narrower, and frozen
    """One source or several."""

    eval: Fraction | list[PairSource] | None = None  # type: ignore[assignment]  # narrower, and frozen
    """Pairs for evaluation: a fraction of the training pairs, or sources of their own."""


class PromptData(Data):
    """The prompts of a run."""

    train: list[PromptSource] = Field(min_length=1)  # type: ignore[assignment]  # narrower, and frozen
    """One source or several."""

    eval: Fraction | list[PromptSource] | None = None  # type: ignore[assignment]  # narrower, and frozen
    """Prompts for evaluation: a fraction of the training prompts, or sources of their own."""


class Preflight(Section):
    """What the checks before training may stop."""

    fail_on: Literal["error", "warning"] = "error"
    """The lowest severity that keeps training from starting."""

    experiments: Literal["auto"] | bool = "auto"
    """Whether preflight learns two short rows of the first batch by heart, in 25 steps that are undone, to see that
    they can be learnt and that answers depend on their prompts. `auto`: where that is at most 0.1 % of the run's
    batches."""

    ignore: dict[CheckId, Annotated[str, Field(min_length=1)]] = Field(default_factory=dict)
    """Checks whose findings are reported but do not stop the run: the check's id, and your reason."""


class Tracking(Section):
    """Where the run is recorded."""

    uri: str | None = None
    """MLflow tracking URI. Absent: `MLFLOW_TRACKING_URI`, else a SQLite store in the output folder."""

    experiment: str | None = None
    """MLflow experiment. Absent: the name of the recipe."""

    tags: dict[str, str] = Field(default_factory=dict)
    """Tags of the MLflow run."""

    preview: bool = True
    """Whether the record holds a page with a few rows as the model sees them, token by token. Turn it off where rows
    must not leave this machine."""


class BaseRecipe(Section):
    """What every method's recipe has. Each method adds its own in `methods/`."""

    method: str
    """How the model is trained."""

    name: str = Field(pattern=NAME)
    """Names the run folder and the MLflow run: letters, digits, dot, dash and underscore."""

    model: Model
    """The model that is trained."""

    data: Data
    """The rows of the run."""

    training: dict[str, Any] = Field(default_factory=dict)
    """Settings of the trainer, by TRL's own names."""

    preflight: Preflight = Field(default_factory=Preflight)
    """What the checks before training may stop."""

    guards: Guards = Field(default_factory=Guards)
    """What watches the run while it trains."""

    deterministic: Literal["auto"] | bool = "auto"
    """Whether two runs of the same record are equal bit for bit. `auto`: as far as that costs nothing, which is
    wholly on a CPU. `true` takes the algorithms that are, which are slower on a GPU, and an operation that has none
    ends the run by its name. `false` leaves the choice to torch."""

    tracking: Tracking = Field(default_factory=Tracking)
    """Where the run is recorded."""

    launch: Launch = Field(default_factory=Launch)
    """The processes that train."""

    output: str = Field(default="runs", min_length=1)
    """Folder for run folders, relative to where the command runs."""
