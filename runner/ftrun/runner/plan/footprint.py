"""Memory of one training step, part by part, for tensors with or without values.

The step is the trainer's own: forward pass, loss, backward pass, clipping and optimizer step, in the state that
training has after its first step.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from ftrun.runner.plan.live_bytes import FORWARD, LiveBytes, Part, count_bytes
from ftrun.runner.step import checkpointed
from ftrun.runner.trial import Batch, advance, forward

if TYPE_CHECKING:
    from transformers import Trainer

LAYER = re.compile(r"^(.*\.)?(?:layers|h|blocks|layer)\.(\d+)(?:\.|$)")
HEAD, UPDATE, ROLLOUT = "head", "update", "rollout"
"""Parts of a step beside its forward pass and those of the backward pass through the layers."""


class Observer(Protocol):
    """Is told how far a step has come."""

    def enter(self, part: str) -> None:
        """A part begins."""

    def accumulated(self, parameter: torch.Tensor) -> None:
        """A parameter has its gradient."""


@dataclass(frozen=True)
class Footprint:
    """Memory of a training step, in bytes."""

    models: Mapping[str, int]
    """Weights and buffers of each model, with its adapters: the model that is trained, a reference, a value model,
    reward models. What two of them share counts for the first."""

    optimizer: int
    gradients: int
    """Of all gradients, once the backward pass is over."""

    activations: int
    """What the forward pass keeps for the backward pass."""

    parts: Mapping[str, Part]
    """The most that is alive in each part of the step, all of the above included."""

    trained: int
    """Parameters that train."""

    total: int
    """Parameters of the models that are trained."""

    saved_weights: int
    """Of the weights that a checkpoint holds: all of them, or of adapters and what trains beside them."""

    @property
    def weights(self) -> int:
        """Of all models."""
        return sum(self.models.values())

    @property
    def highest(self) -> Part:
        """Where the most is alive."""
        return max(self.parts.values())

    @property
    def peak(self) -> int:
        """The most that is alive at any time."""
        return self.highest.bytes


def models_of(trainer: Trainer) -> dict[str, torch.nn.Module]:
    """The models that a trainer holds, by what they are for: first those that it trains."""
    trained = {name: getattr(trainer.model, name, None) for name in ("policy", "value")}
    found = trained if None not in trained.values() else {"model": trainer.model}
    found["reference"] = getattr(trainer, "ref_model", None) or getattr(trainer, "reference", None)
    for number, one in enumerate(getattr(getattr(trainer, "reward", None), "models", ()), 1):
        found[f"reward model {number}"] = one.model
    return {name: one for name, one in found.items() if one is not None}


def prepare_step(trainer: Trainer, *, keep: bool) -> None:
    """Put the trainer into the state that it has after a step: the optimizer's state is there, and with `keep`,
    as where gradients are accumulated, so are gradients."""
    for p in trainer.model.parameters():
        if p.requires_grad:
            p.grad = torch.zeros_like(p)
    trainer.optimizer.step()
    for p in trainer.model.parameters() if not keep else ():
        p.grad = None


def run_step(trainer: Trainer, batch: Batch, items: Any, observer: Observer) -> None:
    """One step as training makes it."""
    with _announced(trainer.model, observer):
        observer.enter(FORWARD)
        loss = forward(trainer, batch, items)
        observer.enter(HEAD)
        trainer.accelerator.backward(loss)
        del loss
    observer.enter(UPDATE)
    advance(trainer)


@contextmanager
def _announced(model: torch.nn.Module, observer: Observer) -> Iterator[None]:
    """Inside, parts begin where the gradient leaves the head for the last layer, and where the gradients of a layer
    are there: of the last one and the first two by names that models of any depth from three have."""
    found = [(LAYER.match(name), p) for name, p in model.named_parameters() if p.requires_grad]
    depths: dict[str, int] = {}
    for match, _ in found:
        if match is not None:
            depths[match[1] or ""] = max(depths.get(match[1] or "", 0), int(match[2]) + 1)
    handles: list[Any] = [
        p.register_post_accumulate_grad_hook(_announce(observer, match, depths))  # type: ignore[no-untyped-call]  # torch is untyped here
        for match, p in found
    ]
    for name, module in model.named_modules():
        match = LAYER.match(name)
        if match is not None and match.end() == len(name) and int(match[2]) + 1 == depths.get(match[1] or ""):
            handles.append(module.register_forward_hook(_watch_top(observer, match[1] or "")))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _announce(
    observer: Observer, match: re.Match[str] | None, depths: Mapping[str, int]
) -> Callable[[torch.Tensor], None]:
    """A hook that tells the gradient of a parameter and, where it is a layer's, the part that this begins."""
    if match is None:
        return observer.accumulated
    network, layer = match[1] or "", int(match[2])
    is_last = layer == depths[network] - 1
    place = "last" if is_last else ("first", "second")[layer] if layer < 2 else "inner"

    def tell(parameter: torch.Tensor) -> None:
        observer.accumulated(parameter)
        observer.enter(f"{network}{place}")

    return tell


def _watch_top(observer: Observer, network: str) -> Callable[[Any, Any, Any], None]:
    """A hook of the last layer's forward pass that tells when the gradient comes back to its output."""

    def look(module: Any, inputs: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.requires_grad:
            hidden.register_hook(lambda _: observer.enter(f"{network}top"))

    return look


def count_step(
    trainer: Trainer,
    batch: Batch,
    *,
    items: Any,
    keep: bool,
    fake: bool = False,
    scored: tuple[tuple[int, ...], int] | None = None,
    before: Callable[[Callable[[str], None]], None] = lambda enter: None,
) -> Footprint:
    """The footprint of a step on a batch. `items` is what the loss divides by; with `keep`, gradients of earlier
    micro-batches are there; `before` does what comes before the step, a part of its own."""
    prepare_step(trainer, keep=keep)
    models = models_of(trainer)
    parameters = list(trainer.model.parameters())
    wanted = [p for p in parameters if p.requires_grad]
    kept = [value for values in trainer.optimizer.state.values() for value in values.values()]
    state = [value for value in kept if isinstance(value, torch.Tensor)]
    gradients = [p.grad for p in wanted if p.grad is not None]
    inputs = [one for one in batch.values() if isinstance(one, torch.Tensor)]
    held = [*(t for one in models.values() for t in _tensors(one)), *state, *gradients, *inputs]
    counter = LiveBytes(held, gradients=gradients, fake=fake, scored=scored)
    resident = counter.alive
    with checkpointed(trainer), counter:
        before(counter.enter)
        run_step(trainer, batch, items, counter)
    whole = len(wanted) == len(parameters)
    return Footprint(
        models=dict(_sizes(models)),
        optimizer=count_bytes(state),
        gradients=count_bytes(p.grad for p in wanted if p.grad is not None),
        activations=counter.starts[HEAD] - resident,
        parts=dict(counter.parts),
        trained=sum(p.numel() for p in wanted),
        total=sum(p.numel() for p in parameters),
        saved_weights=count_bytes(parameters if whole else wanted),
    )


def _tensors(model: torch.nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]


def _sizes(models: Mapping[str, torch.nn.Module]) -> Iterator[tuple[str, int]]:
    before: list[torch.Tensor] = []
    for name, model in models.items():
        own = _tensors(model)
        yield name, count_bytes([*before, *own]) - count_bytes(before)
        before += own
