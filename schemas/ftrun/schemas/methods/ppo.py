"""`method: ppo`, reinforcement learning from a reward."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ftrun.schemas.section import Section
from ftrun.schemas.sections import BaseRecipe, PromptData


class TooLong(Section):
    """The penalty for long answers."""

    words: int = Field(default=300, ge=1)
    """Answers of more words than this are penalised."""

    penalty: float = Field(default=2.0, ge=0)
    """Taken from their score."""


class TooShort(Section):
    """The penalty for short answers."""

    words: int = Field(default=5, ge=1)
    """Answers of fewer words than this are penalised."""

    penalty: float = Field(default=3.0, ge=0)
    """Taken from their score."""


class Penalties(Section):
    """Rules that no reward model sees to; null switches one off."""

    repetition: Annotated[float, Field(ge=0)] | None = 5.0
    """Taken from the score of an answer in which less than half of the words are different ones."""

    too_long: TooLong | None = Field(default_factory=TooLong)
    """Answers of too many words."""

    too_short: TooShort | None = Field(default_factory=TooShort)
    """Answers of too few words."""


class Reward(Section):
    """What an answer is scored by: the sum of all that is named here."""

    models: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    """Reward models: hub ids, local folders, `run:NAME`, or `stage:NAME` in a pipeline. Several are an ensemble,
    which scores the mean of theirs."""

    pessimism: float = Field(default=1.0, ge=0)
    """How many standard deviations between several models are taken from their mean: answers that they disagree
    on are worth less."""

    functions: list[Annotated[str, Field(pattern=r"^[^:]+(:[^:]+)?:[A-Za-z_]\w*$")]] = Field(
        default_factory=list
    )
    """Python functions, as `file.py:function` relative to this recipe or as `module:function`. Each is called
    with `prompts`, `completions` and every other column of the rows, as lists, and returns a score for each."""

    penalties: Penalties | None = Field(default_factory=Penalties)
    """Rules against repetition and unfit lengths. Null: none."""

    @model_validator(mode="after")
    def _scores_something(self) -> Reward:
        chosen = [] if self.penalties is None else list(self.penalties.model_dump().values())
        if not self.models and not self.functions and all(one is None for one in chosen):
            raise ValueError("nothing scores the answers: name a model or a function")
        return self


class Value(Section):
    """The value model, a network of its own that foretells the reward."""

    path: str = Field(default="policy", min_length=1)
    """Where it starts: `policy`, from the policy's start; `reward`, from the first reward model, with its head;
    or a hub id, a local folder, `run:NAME` or `stage:NAME`."""

    lora: dict[str, Any] | None = None
    """LoRA, by the names of PEFT's LoraConfig. Absent: every weight of it is trained."""


class PpoEvaluation(Section):
    """Questions asked of the model."""

    prompts: int | None = Field(default=64, ge=1)
    """Number of held-out prompts that are answered and scored, at each evaluation and, by the start and by the
    trained model, after training. Null: all."""

    temperature: float = Field(default=0.0, ge=0)
    """Temperature at which they are answered, with the same random numbers each time. 0: greedily."""


class Recipe(BaseRecipe):
    """A recipe for PPO with a KL penalty."""

    method: Literal["ppo"]
    """Reinforcement learning with PPO."""

    data: PromptData
    """The prompts of the run."""

    reward: Reward = Field(default_factory=Reward)
    """What an answer is scored by."""

    value: Value = Field(default_factory=Value)
    """The value model."""

    evaluation: PpoEvaluation = Field(default_factory=PpoEvaluation)
    """Questions asked of the model."""
