"""The dry step: one forward pass, backward pass and optimizer step of the real trainer, then all put back.

Weights, buffers, optimizer, random states and the trainer's own counters are restored bit for bit, so a run
that was looked at in this way and one that was not have identical losses.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ftrun.checks.stages import AtModel, AtStep, Phase, Step, widen

if TYPE_CHECKING:
    import torch
    from transformers import Trainer


def take_step(at: AtModel) -> AtStep:
    """What one step does. Exceptions of the step are recorded in it, not raised."""
    with _restored(at.trainer):
        step = _step(at.trainer)
    return widen(at, AtStep, step=step)


def _step(trainer: Trainer) -> Step:
    model = trainer.model
    model.train()
    step, phase = Step(), "batch"
    try:
        batch, items = _first_batch(trainer)
        step, phase = replace(step, batch=batch), "forward"
        with trainer.compute_loss_context_manager(), trainer.accelerator.autocast():
            inputs = trainer._prepare_inputs(dict(batch))
            loss = trainer.compute_loss(model, inputs, num_items_in_batch=items)
        step, phase = replace(step, loss=float(loss.detach())), "backward"
        trainer.accelerator.backward(loss)
        step, phase = replace(step, gradients=_norms(model)), "update"
        changed, share = _update(trainer)
        return replace(step, changed=changed, changed_share=share)
    except Exception as error:  # a build boundary: whatever the step raises is what the checks report
        return replace(step, failed=_as_phase(phase), error=error)


def _as_phase(phase: str) -> Phase:
    assert phase in ("batch", "forward", "backward", "update")
    return phase  # type: ignore[return-value]  # narrowed by the assertion


def _first_batch(trainer: Trainer) -> tuple[Mapping[str, Any], Any]:
    """The first batch that training will see, with the number of trained tokens that its loss divides by."""
    batch = next(iter(trainer.get_train_dataloader()))
    items = (batch["labels"] != -100).sum() if "labels" in batch else None
    return batch, items


def _norms(model: torch.nn.Module) -> dict[str, float | None]:
    import torch

    named = [(name, p.grad) for name, p in model.named_parameters() if p.requires_grad]
    present = [grad.detach().float() for _, grad in named if grad is not None]
    norms = iter(torch.stack(torch._foreach_norm(present)).tolist() if present else [])
    return {name: None if grad is None else next(norms) for name, grad in named}


def _update(trainer: Trainer) -> tuple[frozenset[str], float]:
    """Clip and step as training does; the names of the parameters that changed, and the share of elements."""
    import torch

    model, arguments = trainer.model, trainer.args
    trained = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    frozen = {name: _checksum(p) for name, p in model.named_parameters() if not p.requires_grad}
    if arguments.max_grad_norm:
        torch.nn.utils.clip_grad_norm_(model.parameters(), arguments.max_grad_norm)
    trainer.optimizer.step()
    changed: set[str] = set()
    moved = total = 0
    for name, p in model.named_parameters():
        if name in trained:
            different = int((p.detach() != trained[name]).sum())
            moved, total = moved + different, total + p.numel()
            if different:
                changed.add(name)
        elif _checksum(p) != frozen[name]:
            changed.add(name)
    return frozenset(changed), moved / total if total else 0.0


def _checksum(tensor: torch.Tensor) -> int:
    """A sum over the bytes: equal for equal tensors, and as good as never for others."""
    import torch

    return int(tensor.detach().contiguous().view(torch.uint8).sum(dtype=torch.int64))


@contextmanager
def _restored(trainer: Trainer) -> Iterator[None]:
    """Put back, on leaving, everything that a step changes."""
    import torch

    model, optimizer = trainer.model, trainer.optimizer
    training = model.training
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    weights = {name: p.detach().to("cpu", copy=True) for name, p in model.named_parameters() if p.requires_grad}
    buffers = {name: b.detach().clone() for name, b in model.named_buffers()}
    had_state = bool(optimizer.state)
    assert not had_state, "the dry step runs before any other"
    counters = {name: _copy(getattr(trainer, name)) for name in ("_metrics", "_total_train_tokens") if hasattr(trainer, name)}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.grad = None
                if name in weights:
                    p.copy_(weights[name])
            for name, b in model.named_buffers():
                b.copy_(buffers[name])
        optimizer.state.clear()
        model.train(training)
        for name, value in counters.items():
            setattr(trainer, name, value)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)


def _copy(value: Any) -> Any:
    """A copy of TRL's running metrics (lists by name, by mode) or of a plain number."""
    import copy

    return copy.deepcopy(value)
