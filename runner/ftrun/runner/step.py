"""The dry step: one forward pass, backward pass and optimizer step of the real trainer, then all put back.

Between the step and putting back, `ftrun.runner.experiments` asks the model again in other ways.

Trained weights, buffers, optimizer, random states and the trainer's own counters are restored bit for bit, so
a run that was looked at in this way and one that was not have identical losses. The one thing that is not
saved is a weight that is neither trained nor held by the optimizer: a step that changes one is a finding.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ftrun.checks.experiments import Experiments, Phase, Step
from ftrun.checks.stages import AtModel, AtStep, widen
from ftrun.runner.experiments import learn_first_batch, make_experiments
from ftrun.runner.learning import need_learning
from ftrun.runner.ranks import alone
from ftrun.runner.trial import NotMade, Weights, advance, collected, forward, unscale

if TYPE_CHECKING:
    import torch
    from transformers import Trainer


def take_step(at: AtModel) -> AtStep:
    """What one step of training on its first micro-batch does, at the peak learning rate.

    Exceptions of the step are recorded in it, not raised. Main memory is needed for one copy of the trained
    weights. Of several processes each takes the same step by itself.
    """
    with alone():
        step, experiments = _look(at)
        return widen(at, AtStep, step=step, experiments=_look_from_start(at, step, experiments))


def _look(at: AtModel) -> tuple[Step, Experiments]:
    with restored(at.trainer) as weights, checkpointed(at.trainer):
        step = _step(at.trainer, weights)
        return step, make_experiments(at, step)


def _look_from_start(at: AtModel, step: Step, experiments: Experiments) -> Experiments:
    """And the experiment for which nothing may have changed since the start."""
    skipped, learnt = dict(experiments.skipped), None
    try:
        need_learning(at, step)
    except NotMade as why:
        skipped["learnt"] = str(why)
    else:
        with restored(at.trainer) as weights, checkpointed(at.trainer):
            learnt = learn_first_batch(at, step, weights, skipped)
    return replace(experiments, learnt=learnt, skipped=skipped)


@contextmanager
def restored(trainer: Trainer) -> Iterator[Weights]:
    """All that a step changes is afterwards what it was."""
    with (
        _random_restored(),
        _trainer_restored(trainer),
        _optimizer_restored(trainer.optimizer),
        _model_restored(trainer.model, trainer.optimizer) as weights,
    ):
        yield weights


def _step(trainer: Trainer, weights: Weights) -> Step:
    step = Step()
    phase: Phase = "batch"
    try:
        batch, items = _first_batch(trainer)
        step, phase = replace(step, batch=batch), "forward"
        loss = forward(trainer, batch, items)
        step, phase = replace(step, loss=loss.item(), metrics=collected(trainer)), "backward"
        trainer.accelerator.backward(loss)
        del loss
        phase = "update"
        unscale(trainer)
        step = replace(step, gradients=measure_gradients(trainer.model))
        reference = getattr(trainer, "ref_model", None)
        before = _sums(reference)
        changed, share = update(trainer, weights)
        drifted = frozenset(name for name, value in _sums(reference).items() if value != before[name])
        return replace(step, changed=changed, changed_share=share, reference_changed=drifted)
    except Exception as error:  # a build boundary: whatever the step raises is what the checks report
        # The frames of the traceback hold activations, which may be all the memory there is.
        return replace(step, failed=phase, error=error.with_traceback(None))


def _first_batch(trainer: Trainer) -> tuple[Mapping[str, Any], Any]:
    """The first micro-batch that training will see, and the number of its tokens that the loss divides by."""
    loader = trainer.get_train_dataloader()
    # `accelerator.free_memory` would forget the loader too, and collects garbage for a third of a second.
    trainer.accelerator._dataloaders.remove(loader)
    try:
        batches, items = trainer.get_batch_samples(iter(loader), 1, trainer.args.device)
    finally:
        loader.end()  # left in the middle, it would stay the active loader of accelerate's gradient state
    if not batches:
        raise ValueError(f"the data loader gives no batch of {len(trainer.train_dataset)} rows")
    return batches[0], items


def _sums(reference: torch.nn.Module | None) -> dict[str, int]:
    return {} if reference is None else {name: _sum_bytes(p) for name, p in reference.named_parameters()}


def measure_gradients(model: torch.nn.Module) -> dict[str, float | None]:
    """The norm of the gradient of each trainable parameter, by its name; None where there is none."""
    import torch

    named = [(name, p.grad) for name, p in model.named_parameters() if p.requires_grad]
    present = [
        torch.linalg.vector_norm(grad, dtype=torch.float32).cpu() for _, grad in named if grad is not None
    ]
    norms = iter(torch.stack(present).tolist() if present else [])
    return {name: None if grad is None else next(norms) for name, grad in named}


def update(trainer: Trainer, weights: Weights) -> tuple[frozenset[str], float]:
    """Clip and step as training does; the names of the parameters that changed, and the share of elements."""
    model = trainer.model
    unsaved = {name: _sum_bytes(p) for name, p in model.named_parameters() if name not in weights}
    advance(trainer)
    changed = {
        name for name, p in model.named_parameters() if name in unsaved and _sum_bytes(p) != unsaved[name]
    }
    moved = total = 0
    for name, p in model.named_parameters():
        if name not in weights:
            continue
        different = p.detach() != weights[name].to(p.device)
        if different.any():
            changed.add(name)
        if p.grad is not None:
            moved += int((different & (p.grad != 0)).sum())
            total += int((p.grad != 0).sum())
    return frozenset(changed), moved / total if total else 0.0


def _sum_bytes(tensor: torch.Tensor) -> int:
    """A sum over the bytes, eight at a time: equal for equal tensors, and as good as never for others."""
    import torch

    flat = tensor.detach().reshape(-1)
    if flat.storage_offset() * flat.element_size() % 8:
        flat = flat.clone()  # words of eight bytes begin at multiples of eight
    data = flat.view(torch.uint8)
    words = len(data) // 8 * 8
    return int(data[:words].view(torch.int64).sum()) + int(data[words:].sum())


@contextmanager
def _random_restored() -> Iterator[None]:
    import torch

    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        torch.cuda.set_rng_state_all(cuda)


@contextmanager
def _trainer_restored(trainer: Trainer) -> Iterator[None]:
    accelerator, attributes = trainer.accelerator, dict(vars(trainer))
    scaler = accelerator.scaler
    # Where TRL's trainers collect what they log next; no public name leads there.
    metrics = deepcopy(getattr(trainer, "_metrics", None))
    accelerator.scaler = deepcopy(scaler)
    try:
        yield
    finally:
        accelerator.scaler = scaler
        vars(trainer).clear()
        vars(trainer).update(attributes)
        if metrics is not None:
            trainer._metrics = metrics


@contextmanager
def _optimizer_restored(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    attributes, groups = dict(vars(optimizer)), [dict(group) for group in optimizer.param_groups]
    # Adagrad has a state from the start; with others it is empty before their first step.
    state = {p: deepcopy(values) for p, values in optimizer.state.items()}
    try:
        yield
    finally:
        vars(optimizer).clear()
        vars(optimizer).update(attributes)
        for group, saved in zip(optimizer.param_groups, groups, strict=True):
            group.clear()
            group.update(saved)
        optimizer.state.clear()
        optimizer.state.update(state)


@contextmanager
def _model_restored(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[Weights]:
    import torch

    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    weights = {
        name: p.detach().to("cpu", copy=True)
        for name, p in model.named_parameters()
        if p.requires_grad or id(p) in held
    }
    buffers = [(buffer, buffer.detach().to("cpu", copy=True)) for buffer in model.buffers()]
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield weights
    finally:
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.grad = None
                if name in weights:
                    p.copy_(weights[name])
            for buffer, saved in buffers:
                buffer.copy_(saved)
        for module, training in modes:
            module.training = training


@contextmanager
def checkpointed(trainer: Trainer) -> Iterator[None]:
    """Activation checkpointing as `Trainer.train` turns it on: a step without it may not fit."""
    model, arguments = trainer.model, trainer.args
    if not arguments.gradient_checkpointing:
        yield
        return
    options = dict(arguments.gradient_checkpointing_kwargs or {})
    kwargs = {name: options.pop(name) for name in ("every_n_layers", "offload") if name in options}
    # transformers 5.17 calls it by the second of the two names alone, and later ones warn of that name.
    kind = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    kwargs[f"{kind}_checkpointing_kwargs"] = options or None
    getattr(model, f"{kind}_checkpointing_enable")(**kwargs)
    try:
        yield
    finally:
        getattr(model, f"{kind}_checkpointing_disable")()
        model.disable_input_require_grads()
