"""Why a loss does not fall, told by trying: a step, and a batch that is learnt by heart. All is put back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ftrun.checks.experiments import Learning
from ftrun.checks.optimisation import Cause
from ftrun.checks.stages import AtModel
from ftrun.runner.guarding.sharding import is_sharded
from ftrun.runner.learning import STEPS, learn_by_heart, measure_distance
from ftrun.runner.step import measure_gradients, restored, update
from ftrun.runner.trial import Batch, count_items, forward

if TYPE_CHECKING:
    from transformers import Trainer

FEW = 0.2
"""The share of elements with a gradient under which an update rounds to nothing, as in TRAIN020."""

LEARNT = 0.1
"""The share by which the loss of a batch falls that is being learnt by heart."""

FASTER = (10.0, 100.0, 1000.0)
"""What the rate is multiplied by to see whether it was too low, until the batch is learnt."""

RATE, MODEL = "training.learning_rate", "model"


def find_cause(at: AtModel, batches: Sequence[Batch]) -> Cause | None:
    """What keeps the loss where it is, in front of a step: tried on one micro-batch at the peak rate, with the trainer
    that trains. None for text that is learnt by heart as it should be: what its rows share is known.

    Main memory is needed for a copy of trained weights and optimizer.
    """
    trainer = at.trainer
    if is_sharded(trainer) or trainer.accelerator.scaler is not None or not batches:
        return Cause(
            "with sharded weights, or float16, causes are not tried", "Try one process in bfloat16.", RATE
        )
    rate = max(float(group["lr"]) for group in trainer.optimizer.param_groups)
    if rate == 0:
        return Cause("the learning rate is 0", "Look at training.lr_scheduler_type and at callbacks.", RATE)
    return _look_at_optimizer(trainer) or _try_step(trainer, batches[-1]) or _try_learning(at, batches[-1])


def _look_at_optimizer(trainer: Trainer) -> Cause | None:
    trained = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    lost = [name for name, p in trained.items() if id(p) not in held]
    fix = "Make the optimizer from the trainable parameters of the finished model."
    if not trained:
        return Cause("no weight is trainable", "Remove what freezes the model, or add model.lora.", MODEL)
    if 2 * len(lost) > len(trained):
        what = f"the optimizer holds {len(trained) - len(lost)} of {len(trained)} trainable tensors"
        return Cause(what, fix, "training.optim", tuple(lost[:5]))
    broken = [name for name, p in trained.items() if not _is_sound(trainer.optimizer.state.get(p, {}))]
    if broken:
        what = f"the optimizer's moments of {len(broken)} tensors are no numbers, or next to infinite"
        return Cause(
            what, "Go back to a checkpoint before, or start anew.", "training.optim", tuple(broken[:5])
        )
    return None


def _is_sound(state: Mapping[str, Any]) -> bool:
    moments = [value for value in state.values() if hasattr(value, "is_floating_point") and value.dim()]
    return all(bool(value.isfinite().all()) and float(value.abs().max()) < 1e20 for value in moments)


def _try_step(trainer: Trainer, batch: Batch) -> Cause | None:
    with restored(trainer) as weights:
        loss = forward(trainer, batch, count_items(trainer, batch))
        if not loss.requires_grad:
            return Cause(
                "the loss depends on no trained weight", "Remove what detaches or freezes the model.", MODEL
            )
        trainer.accelerator.backward(loss)
        norms = [norm or 0.0 for norm in measure_gradients(trainer.model).values()]
        if not any(norms):
            return Cause(
                "all gradients are zero", "Look at which tokens are trained, with `ftrun preview`.", "data"
            )
        _, share = update(trainer, weights)
        moved = measure_distance(trainer, weights)
    if share >= FEW:
        return None
    kinds = {str(p.dtype).removeprefix("torch.") for p in trainer.model.parameters() if p.requires_grad}
    told = f"a step changes {share:.1%} of the weights that have a gradient, by {moved:.1g} of their norm"
    if kinds & {"bfloat16", "float16"}:
        what = f"updates round to nothing in {', '.join(sorted(kinds))}: {told}"
        return Cause(what, "Set model.dtype to float32, or train adapters with model.lora.", "model.dtype")
    return Cause(f"updates are too small to change anything: {told}", "Raise training.learning_rate.", RATE)


def _try_learning(at: AtModel, batch: Batch) -> Cause | None:
    own = _learn(at, batch, 1.0)
    fell = f"{STEPS} steps on one batch at the recipe's rate take its loss from {own.evaluated[0]:.4g} to "
    fell += f"{own.evaluated[1]:.4g}, and move the weights by {own.moved:.1g} of their norm"
    if _is_learnt(own):
        if at.recipe.method == "sft":
            return None
        return Cause(
            "one batch can be learnt by heart, so that what the pairs have in common is what is not learnt",
            "Read the pairs: are they labelled at random, or do they contradict each other?",
            "data",
            (fell,),
        )
    tried = []
    for times in FASTER:
        faster = _learn(at, batch, times)
        tried.append(f"at {times:g} times the rate they take it to {faster.evaluated[1]:.4g}")
        if _is_learnt(faster):
            fix = f"Set training.learning_rate to {at.trainer.args.learning_rate * times:.3g}."
            return Cause("the learning rate is too low", fix, RATE, (fell, *tried))
    if at.recipe.model.lora is not None:
        fix = "Raise r, or set target_modules to all-linear, under model.lora; then raise training.learning_rate."
        return Cause(
            "one batch cannot be learnt by heart with these adapters", fix, "model.lora", (fell, *tried)
        )
    fix = "See what the optimizer makes of gradients, and that what is trained bears on the loss."
    return Cause(
        "one batch cannot be learnt by heart, at a thousand times the rate neither", fix, RATE, (fell, *tried)
    )


def _learn(at: AtModel, batch: Batch, times: float) -> Learning:
    with restored(at.trainer) as weights:
        for group in at.trainer.optimizer.param_groups:
            group["initial_lr"] = group.get("initial_lr", group["lr"]) * times
        return learn_by_heart(at, batch, weights)


def _is_learnt(learning: Learning) -> bool:
    before, after = learning.evaluated
    return before - after >= LEARNT * abs(before - learning.floor)
