"""Scores of answers: reward models, Python functions and rules, summed."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ftrun.runner.ppo.networks import score_last
from ftrun.schemas.errors import ModelError, RunError, first_line
from ftrun.schemas.methods.ppo import Penalties

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

RewardFunction = Callable[..., Sequence[float]]
LEAST_UNIQUE = 0.5
"""Answers with a smaller share of different words repeat themselves."""


@dataclass(frozen=True)
class Answer:
    """A response and what it answers."""

    example: Mapping[str, Any]
    """The row: `prompt`, a text or messages, and `columns`, its other columns."""

    length: int
    """Tokens of the response, with the one that ended it."""

    text: str
    """The response without special tokens."""

    ended: bool
    """Whether it ends with a stop token."""


@dataclass(frozen=True, eq=False)
class Scores:
    """What the answers are worth: tensors of shape (answers,) in main memory."""

    total: Tensor
    parts: Mapping[str, Tensor]
    """What the total sums, by its name."""

    disagreement: Tensor | None = None
    """Standard deviation between the reward models, where there are several."""


@dataclass(frozen=True, eq=False)
class RewardModel:
    """A scorer and its tokenizer.

    It reads an answer as `method: reward` lays out its rows, through its own template and tokenizer, also where these
    are the policy's: what a policy writes ends with its stop token, and a template may go on after it, with a new line
    for example. A score is read at the last token, so it would be read at one that was never trained.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    batch_size: int = 64

    @torch.no_grad()
    def score(self, answers: Sequence[Answer]) -> Tensor:
        """The scores of answers, those of like length together: shape (answers,)."""
        device = next(self.model.parameters()).device
        encoded = [self.encode(answer) for answer in answers]
        order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i]))
        scores = torch.zeros(len(answers))
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            width = len(encoded[rows[0]])
            ids = torch.tensor([encoded[i] + [0] * (width - len(encoded[i])) for i in rows], device=device)
            lengths = torch.tensor([len(encoded[i]) for i in rows], device=device)
            mask = (torch.arange(width, device=device) < lengths[:, None]).long()
            scores[rows] = score_last(self.model, ids, mask).cpu()
        return scores

    def encode(self, answer: Answer) -> list[int]:
        """The tokens that are scored: prompt and response. What has not ended is not closed."""
        text = self._render(answer)
        is_plain = isinstance(answer.example["prompt"], str)
        ids: list[int] = self.tokenizer(text, add_special_tokens=is_plain)["input_ids"]
        return ids

    def _render(self, answer: Answer) -> str:
        prompt = answer.example["prompt"]
        if isinstance(prompt, str):
            return prompt + answer.text + ((self.tokenizer.eos_token or "") if answer.ended else "")
        text: str = self.tokenizer.apply_chat_template(
            [*prompt, {"role": "assistant", "content": answer.text}],
            tools=answer.example.get("tools"),
            tokenize=False,
            **answer.example.get("chat_template_kwargs", {}),
        )
        if answer.ended or answer.text not in text:
            return text
        return text[: text.rindex(answer.text) + len(answer.text)]


@dataclass(frozen=True, eq=False)
class RewardSum:
    """All that scores an answer."""

    models: Sequence[RewardModel] = ()
    pessimism: float = 1.0
    """Standard deviations between the models that are taken from their mean."""

    functions: Mapping[str, RewardFunction] | None = None
    penalties: Penalties | None = None

    def score(self, answers: Sequence[Answer]) -> Scores:
        """The score of each answer. Raises RunError where a function returns something else than scores."""
        parts: dict[str, Tensor] = {}
        disagreement = None
        if self.models:
            each = torch.stack([model.score(answers) for model in self.models])
            parts["models"] = each.mean(0)
            if len(self.models) > 1:
                # The ensemble's standard deviation, as a bound from below: Coste 2023 (arXiv 2310.02743).
                disagreement = each.std(0, correction=0)
                parts["models"] = parts["models"] - self.pessimism * disagreement
        for name, function in (self.functions or {}).items():
            parts[name] = call_function(name, function, answers)
        if self.penalties is not None:
            parts |= penalise(self.penalties, [answer.text for answer in answers])
        return Scores(torch.stack(list(parts.values())).sum(0), parts, disagreement)


def call_function(name: str, function: RewardFunction, answers: Sequence[Answer]) -> Tensor:
    """The scores that a Python function gives. Raises RunError where they are not one finite number each, where it asks
    for something else than prompts, completions and columns of the rows, and where it raises."""
    names = {column for answer in answers for column in answer.example.get("columns", {})}
    arguments: dict[str, list[Any]] = {
        column: [answer.example.get("columns", {}).get(column) for answer in answers] for column in names
    }
    arguments |= {
        "prompts": [answer.example["prompt"] for answer in answers],
        "completions": [answer.text for answer in answers],
    }
    parameters = inspect.signature(function).parameters
    if all(parameter.kind != parameter.VAR_KEYWORD for parameter in parameters.values()):
        arguments = {column: values for column, values in arguments.items() if column in parameters}
    missing = [one.name for one in parameters.values() if _is_needed(one) and one.name not in arguments]
    if missing:
        raise RunError(
            f"the reward function {name} asks for {', '.join(missing)}; what it can have is "
            f"{', '.join(['prompts', 'completions', *sorted(names)])}"
        )
    try:
        found: Any = function(**arguments)
    except (Exception, SystemExit) as error:  # a plugin boundary: the function is the user's
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise RunError(
            f"the reward function {name} failed at {last.filename}:{last.lineno} with {first_line(error)}"
        ) from error
    if hasattr(found, "tolist"):  # of torch or NumPy
        found = found.tolist()
    if not isinstance(found, Sequence) or len(found) != len(answers):
        size = f"{len(found)} values" if isinstance(found, Sequence) else f"a {type(found).__name__}"
        raise RunError(
            f"the reward function {name} returned {size} for {len(answers)} answers; it has to return a list with one "
            "number for each"
        )
    for answer, value in zip(answers, found, strict=True):
        if isinstance(value, str) or value is None or not math.isfinite(value):
            raise RunError(
                f"the reward function {name} returned {value!r} for the answer {answer.text[:80]!r}; "
                "it has to return finite numbers"
            )
    return torch.tensor([float(value) for value in found])


def _is_needed(parameter: inspect.Parameter) -> bool:
    """Whether a function cannot be called without this parameter."""
    by_name = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    return by_name and parameter.default is parameter.empty


def penalise(penalties: Penalties, texts: Sequence[str]) -> dict[str, Tensor]:
    """What each rule that is switched on takes from each text, as numbers of 0 or less."""
    words = [text.split() for text in texts]
    found = {}
    if penalties.repetition is not None:
        repeats = [share_unique(text) < LEAST_UNIQUE for text in texts]
        found["repetition"] = torch.tensor(repeats) * -penalties.repetition + 0.0
    if penalties.too_long is not None:
        long = [len(one) > penalties.too_long.words for one in words]
        found["too_long"] = torch.tensor(long) * -penalties.too_long.penalty + 0.0
    if penalties.too_short is not None:
        short = [len(one) < penalties.too_short.words for one in words]
        found["too_short"] = torch.tensor(short) * -penalties.too_short.penalty + 0.0
    return found


def share_unique(text: str) -> float:
    """The share of different words among all words of a text; 1 where it has none."""
    words = text.split()
    return len(set(words)) / len(words) if words else 1.0


def load_function(name: str, folder: Path) -> RewardFunction:
    """The function that `file.py:function`, relative to `folder`, or `module:function` names.

    Raises ModelError where there is none.
    """
    place, _, function_name = name.rpartition(":")
    path = folder / Path(place).expanduser()
    try:
        if path.suffix == ".py":
            spec = importlib.util.spec_from_file_location(path.stem, path)
            if spec is None or spec.loader is None or not path.is_file():
                raise FileNotFoundError(f"there is no file {path}")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
    except (Exception, SystemExit) as error:  # a plugin boundary: the file is the user's
        raise ModelError(f"reward.functions {name} cannot be loaded: {first_line(error)}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ModelError(f"reward.functions {name}: {place} has no function {function_name}")
    return cast(RewardFunction, function)
