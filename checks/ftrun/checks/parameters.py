"""Reading a model's parameters and adapters, and naming many of them in a few lines."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

ADAPTED = ("lora_", ".modules_to_save.", "trainable_tokens_")
"""What the names of parameters contain that PEFT adds for LoRA: adapters, copies of whole modules, token rows."""


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name was added by PEFT."""
    return any(part in name for part in ADAPTED)


def count_elements(model: torch.nn.Module) -> tuple[int, int]:
    """Trainable elements, and all."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def adapter_layers(model: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """The modules that PEFT put an adapter on, by the names that they have in the model without it."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in model.named_modules():
        # In a wrapper for rows of tokens sits a layer of its own, which is no LoRA.
        if isinstance(module, BaseTunerLayer) and "token_adapter" not in name:
            yield plain_name(name), module


def plain_name(name: str) -> str:
    """A module's or parameter's name without what PEFT puts before it."""
    return name.removeprefix("base_model.model.")


def group_names(names: Iterable[str], limit: int = 5) -> tuple[str, ...]:
    """Names with `*` for the numbers of layers, each with its count; the most frequent first, then how many more."""
    groups = Counter(re.sub(r"(?<=\.)\d+(?=\.|$)", "*", plain_name(name)) for name in names)
    shown = tuple(
        f"{name} ({count} times)" if count > 1 else name for name, count in groups.most_common(limit)
    )
    rest = len(groups) - len(shown)
    return (*shown, f"and {rest} more kinds") if rest else shown


def learning_rates(optimizer: torch.optim.Optimizer) -> dict[int, float]:
    """The peak learning rate of each parameter that the optimizer holds, by the parameter's `id`."""
    return {
        id(p): float(group.get("initial_lr", group["lr"]))
        for group in optimizer.param_groups
        for p in group["params"]
    }


def names_sharing(named: Iterable[tuple[str, torch.Tensor]], others: Iterable[torch.Tensor]) -> list[str]:
    """The names of tensors that lie in the memory of one of `others`."""
    memory = {_storage(other) for other in others if other.numel()}
    return [name for name, one in named if one.numel() and _storage(one) in memory]


def _storage(tensor: torch.Tensor) -> tuple[str, int]:
    """Where the memory begins that a tensor lies in, the same for all views of it."""
    return str(tensor.device), tensor.untyped_storage().data_ptr()
