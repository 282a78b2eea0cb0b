"""Policy, value model and reference: their forward passes over prompts and responses.

`ids` are prompts, padded on their left, and responses behind them, padded on their right; `mask` is 1 for what
is no padding; `width` is the number of columns that responses have. The token in column t is judged by what the
networks say at column t − 1.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Refer = Callable[[], AbstractContextManager[Any]]
"""Opens the frozen reference: inside, the model that it gives is the reference."""


def core(model: PreTrainedModel) -> PreTrainedModel:
    """The model that PEFT has put its adapters into, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def count_positions(mask: Tensor) -> Tensor:
    """The position of each token in its own sequence, whatever padding stands before it."""
    return (mask.cumsum(1) - 1).clamp(min=0)


def choose_options(model: PreTrainedModel, **options: Any) -> dict[str, Any]:
    """Those of the options that this kind of model takes."""
    known = _arguments(type(model).forward)
    return {name: value for name, value in options.items() if name in known}


@functools.cache
def _arguments(forward: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(forward).parameters)


def judge_tokens(
    model: PreTrainedModel, ids: Tensor, mask: Tensor, width: int, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of all tokens at each column of the responses, and those of the tokens that stand
    there: shapes (responses, width, vocabulary) and (responses, width)."""
    model = core(model)
    options = choose_options(model, position_ids=count_positions(mask), logits_to_keep=width + 1)
    output = model(input_ids=ids, attention_mask=mask, use_cache=False, **options)
    logits = output.logits[:, -width - 1 : -1]
    logits = logits.float() if temperature == 1.0 else logits.float() / temperature
    distributions = torch.log_softmax(logits, -1)
    return distributions, distributions.gather(-1, ids[:, -width:, None]).squeeze(-1)


def read_hidden(scorer: PreTrainedModel, ids: Tensor, mask: Tensor) -> Tensor:
    """The last hidden states of a model with a score head: shape (responses, columns, width of the model)."""
    model = core(scorer)
    trunk = getattr(model, model.base_model_prefix)
    options = choose_options(trunk, position_ids=count_positions(mask))
    hidden: Tensor = trunk(input_ids=ids, attention_mask=mask, use_cache=False, **options).last_hidden_state
    return hidden


def estimate_values(scorer: PreTrainedModel, ids: Tensor, mask: Tensor, width: int) -> Tensor:
    """The value of the state before each response token: shape (responses, width)."""
    hidden = read_hidden(scorer, ids, mask)[:, -width - 1 : -1]
    values: Tensor = core(scorer).score(hidden).squeeze(-1).float()
    return values


def score_last(scorer: PreTrainedModel, ids: Tensor, mask: Tensor) -> Tensor:
    """The score at the last token of each sequence that is no padding, whatever the side of the padding and
    whatever token it is made of: shape (sequences,)."""
    columns = torch.arange(ids.shape[1], device=ids.device)
    last = (columns * mask).argmax(1)
    hidden = read_hidden(scorer, ids, mask)
    picked = hidden[torch.arange(len(ids), device=ids.device), last]
    scores: Tensor = core(scorer).score(picked).squeeze(-1).float()
    return scores


class ActorCritic(nn.Module):
    """Policy and value model as the one module that a trainer trains. They share no weight.

    The policy is a causal language model; the value model one for sequence classification with one label. Both
    may be PEFT's.
    """

    def __init__(self, policy: PreTrainedModel, value: PreTrainedModel) -> None:
        super().__init__()
        self.policy: PreTrainedModel = policy
        self.value: PreTrainedModel = value
        self.config = policy.config

    @property
    def generation_config(self) -> Any:
        """The policy's, where transformers looks for stop tokens to align."""
        return core(self.policy).generation_config

    def forward(
        self, ids: Tensor, mask: Tensor, width: int, temperature: float
    ) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities of the response tokens, values and, but for an update, the entropies of the
        policy: tensors of shape (responses, width)."""
        distributions, logprobs = judge_tokens(self.policy, ids, mask, width, temperature)
        values = estimate_values(self.value, ids, mask, width)
        if self.training and torch.is_grad_enabled():
            return logprobs.clone(), values.clone()  # FSDP warns of views
        with torch.no_grad():
            return logprobs, values, -(distributions.exp() * distributions).sum(-1)

    def gather(self) -> None:
        """A forward pass of nothing, around which FSDP gathers the weights that are in no layer."""

    @property
    def _no_split_modules(self) -> list[str]:
        """The classes of their layers, where accelerate looks for what is gathered as one by FSDP."""
        names = (core(network)._no_split_modules or () for network in (self.policy, self.value))
        return sorted({name for some in names for name in some})

    def tie_weights(self) -> None:
        """As transformers' models have it; accelerate calls it where it has moved weights."""
        for network in (self.policy, self.value):
            core(network).tie_weights()

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """As transformers' models have it; `Trainer.train` calls it."""
        for network in (self.policy, self.value):
            network.activation_checkpointing_enable(**options)

    def activation_checkpointing_disable(self) -> None:
        """As transformers' models have it."""
        for network in (self.policy, self.value):
            network.activation_checkpointing_disable()

    def disable_input_require_grads(self) -> None:
        """As transformers' models have it."""
        for network in (self.policy, self.value):
            core(network).disable_input_require_grads()


def disable_dropout(model: nn.Module) -> None:
    """Set every rate of dropout to 0: of dropout layers, and of attention, whose rate is an attribute."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if name.endswith("dropout") and isinstance(value, float):
                setattr(module, name, 0.0)


def start_value_head(scorer: PreTrainedModel, generator: torch.Generator | None = None) -> None:
    """Draw the head of a value model that was no scorer before.

    Hidden states leave a model's last norm with entries near 1, so that these weights, of standard deviation
    0.1 / sqrt(width of the model), give values of about 0.1: near 0, from which Huang 2023 starts them ("Reward
    head and value head initialization"), yet with a gradient into the model from the first update.
    """
    head = core(scorer).score
    with torch.no_grad():
        for copy in head.modules():
            if isinstance(copy, nn.Linear):
                copy.weight.normal_(0.0, 0.1 / copy.in_features**0.5, generator=generator)
                if copy.bias is not None:
                    copy.bias.zero_()


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, and each module's own mode behind it."""
    modes = [(module, module.training) for network in networks for module in network.modules()]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def freeze(model: PreTrainedModel) -> PreTrainedModel:
    """The model, in evaluation mode and without a trainable weight."""
    return model.eval().requires_grad_(False)


@contextmanager
def as_reference(policy: PreTrainedModel, copy: PreTrainedModel | None) -> Iterator[PreTrainedModel]:
    """The frozen start of the policy: its copy, or where there is none the policy with its adapters off."""
    if copy is not None:
        yield copy
        return
    with policy.disable_adapter():
        yield policy
