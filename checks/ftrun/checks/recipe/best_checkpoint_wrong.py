"""The checkpoint that counts as the best is the worst, or none can be chosen.

Symptom: the model at the end is worse than the checkpoints on the way; or the run ends with a KeyError at its first
evaluation, or with "requires the save and eval strategy to match" once the model is loaded.
Cause: `greater_is_better` is the wrong way round, `metric_for_best_model` names a figure that no evaluation reports, or
checkpoints are not saved where evaluations are.
Fix: leave `metric_for_best_model` and `greater_is_better` out, and the lowest evaluation loss wins; save as often as
evaluations run.
Source: transformers takes a metric for one that should be high unless its name ends with `loss`
(`TrainingArguments.__post_init__`), and compares strategies there; axolotl#1358.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.stages import AtRecipe

if TYPE_CHECKING:
    from ftrun.checks.testing import World

LOW = ("loss", "perplexity", "ppl", "wer", "cer", "error", "mse", "mae", "kl", "rejected")
"""Last words of the names of figures that should be low."""

HIGH = ("accuracy", "accuracies", "acc", "f1", "bleu", "rouge", "exact_match", "margins", "reward", "score")
"""Last words of the names of figures that should be high."""

REPORTED = ("loss", "mean_token_accuracy", "entropy", "num_tokens", "aux_loss")
"""What TRL's SFTTrainer reports of an evaluation, without `eval_`; speeds are no measure of a model."""

NO_QUALITY = ("num_tokens", "runtime", "samples_per_second", "steps_per_second", "epoch")
"""What evaluations report beside figures of the model."""


@check("TRAIN036", title="the best checkpoint is the best")
def best_checkpoint_wrong(at: AtRecipe) -> Iterator[Finding]:
    """Tell a metric that is missing or judged the wrong way round, and checkpoints that are never judged."""
    training = at.recipe.training
    best_alone = training["save_strategy"] == "best"
    if not training["load_best_model_at_end"] and not best_alone:
        raise NotApplicable("no checkpoint is chosen as the best")
    yield from _judge_times(at, best_alone)
    name = (training["metric_for_best_model"] or "loss").removeprefix("eval_")
    key = "training.metric_for_best_model"
    if at.recipe.method == "sft" and name not in REPORTED:
        yield Finding(
            message=f"training.metric_for_best_model is {name}, and no evaluation reports it: the first one ends the "
            f"run. Reported are {', '.join(REPORTED[:2])}.",
            fix="Remove training.metric_for_best_model, and the evaluation loss decides.",
            where=at.where(key),
            patch=Patch(key, "loss"),
        )
        return
    if name in NO_QUALITY:
        yield Finding(
            message=f"training.metric_for_best_model is {name}, which says nothing of how good a model is.",
            fix="Remove training.metric_for_best_model, and the evaluation loss decides.",
            where=at.where(key),
            patch=Patch(key, "loss"),
        )
        return
    asked = training["greater_is_better"]
    greater = asked if asked is not None else not name.endswith("loss")
    right = _should_be_high(name)
    if right is not None and greater != right:
        told = (
            f"greater_is_better is {str(asked).lower()}"
            if asked is not None
            else "its name ends without `loss`"
        )
        yield Finding(
            message=f"The best checkpoint is that of the {'highest' if greater else 'lowest'} {name}, since {told}: "
            "the worst.",
            fix=f"Set training.greater_is_better to {str(right).lower()}.",
            where=at.where("training.greater_is_better" if asked is not None else key),
            patch=Patch("training.greater_is_better", right),
        )


def _should_be_high(name: str) -> bool | None:
    """Whether a figure of this name should be high; None where the name does not tell."""
    for words, high in ((LOW, False), (HIGH, True)):
        if name in words or name.endswith(tuple(f"{mark}{word}" for word in words for mark in "_/")):
            return high
    return None


def _judge_times(at: AtRecipe, best_alone: bool) -> Iterator[Finding]:
    training = at.recipe.training
    evaluated, saved = training["eval_strategy"], training["save_strategy"]
    if evaluated == "no":
        yield Finding(
            message="A best checkpoint is asked for, and training.eval_strategy is no: there is nothing to choose by.",
            fix="Set training.eval_strategy to epoch, with rows under data.eval.",
            where=at.where("training.load_best_model_at_end" if not best_alone else "training.save_strategy"),
        )
    elif not best_alone and evaluated != saved:
        yield Finding(
            message=f"Evaluations come by {evaluated} and checkpoints by {saved}: the best cannot be chosen.",
            fix=f"Set training.save_strategy to {evaluated}.",
            where=at.where("training.save_strategy"),
            patch=Patch("training.save_strategy", evaluated),
        )
    elif not best_alone and evaluated == "steps":
        each, kept = training["eval_steps"] or training["logging_steps"], training["save_steps"]
        mixed = (each < 1) != (kept < 1)
        if mixed or round(kept * 1e6) % round(each * 1e6):
            yield Finding(
                message=f"Checkpoints come every {kept:g} steps and evaluations every {each:g}: not each checkpoint "
                "would have been evaluated.",
                fix=f"Set training.save_steps to {each:g}, or to a multiple of it.",
                where=at.where("training.save_steps"),
                patch=Patch("training.save_steps", each),
            )


@best_checkpoint_wrong.fault
def highest_loss_wins(world: World) -> None:
    """The direction was copied from a recipe with another metric."""
    _choose(world, metric_for_best_model="eval_loss", greater_is_better=True)


@best_checkpoint_wrong.fault
def lowest_accuracy_wins(world: World) -> None:
    """The other way round."""
    _choose(world, metric_for_best_model="mean_token_accuracy", greater_is_better=False)


@best_checkpoint_wrong.fault
def a_metric_that_nothing_reports(world: World) -> None:
    """The run would end at its first evaluation."""
    _choose(world, metric_for_best_model="accuracy")


@best_checkpoint_wrong.fault
def most_tokens_win(world: World) -> None:
    """The last checkpoint, whatever it is worth."""
    _choose(world, metric_for_best_model="num_tokens")


@best_checkpoint_wrong.fault
def saved_otherwise_than_evaluated(world: World) -> None:
    """transformers raises once data and arguments are made."""
    _choose(world, eval_strategy="steps", eval_steps=2)


def _choose(world: World, **training: object) -> None:
    world.recipe["data"]["eval"] = {"fraction": 0.25}
    world.recipe["training"] |= {"eval_strategy": "epoch", "load_best_model_at_end": True, **training}
