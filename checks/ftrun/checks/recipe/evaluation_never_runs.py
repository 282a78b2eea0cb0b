"""There are rows to evaluate on and no evaluation, or the other way round.

Symptom: no validation loss, so overfitting stays unseen; or a ValueError from transformers about a missing
`eval_dataset`, after the model is loaded.
Cause: `data.eval` holds rows out and `training.eval_strategy` is `no`, which is the default; or a strategy is
set and there are no rows; or `eval_delay` is longer than the run.
Fix: set `training.eval_strategy: epoch`, or `steps` with `eval_steps`; or give `data.eval`.
Prevention: `ftrun init METHOD DATA` writes both.
Source: axolotl#633, #2298.
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

STRATEGY = "training.eval_strategy"


@check("TRAIN006", title="what is held out is evaluated", severity="warning")
def evaluation_never_runs(at: AtRecipe) -> Iterator[Finding]:
    """Tell rows without an evaluation, and an evaluation without rows or beyond the end."""
    training, has_rows = at.recipe.training, at.recipe.data.eval is not None
    asked = [name for name in ("eval_strategy", "eval_on_start") if training[name] not in ("no", False)]
    if not has_rows and not asked:
        raise NotApplicable("the recipe holds no rows out")
    if not has_rows:
        yield Finding(
            message=f"training.{asked[0]} is {_shown(training[asked[0]])}, and there is no data.eval.",
            fix="Add `eval: {fraction: 0.05}` under `data:`, or set training.eval_strategy to no.",
            where=at.where(f"training.{asked[0]}"),
            severity="error",
            patch=Patch("data.eval", {"fraction": 0.05}),
        )
    elif not asked and not _asks_questions(at):
        yield Finding(
            message="data.eval holds rows out, and training.eval_strategy is no: they are never used.",
            fix="Set training.eval_strategy to epoch, or remove data.eval.",
            where=at.where("data.eval"),
            patch=Patch(STRATEGY, "epoch"),
        )
    elif _is_put_off_beyond_the_end(at):
        epochs = training["num_train_epochs"]
        yield Finding(
            message=f"training.eval_delay is {training['eval_delay']:g} epochs, and the run has {epochs:g}.",
            fix="Lower training.eval_delay, or remove it.",
            where=at.where("training.eval_delay"),
        )


def _shown(value: object) -> str:
    return "true" if value is True else str(value)


def _asks_questions(at: AtRecipe) -> bool:
    """Whether held-out rows are judged after training, which needs no strategy: all methods but SFT do so."""
    evaluation = getattr(at.recipe, "evaluation", None)
    return at.recipe.method != "sft" or getattr(evaluation, "exact_match", None) is not None


def _is_put_off_beyond_the_end(at: AtRecipe) -> bool:
    """Whether evaluation by epochs begins after the last one. By steps it is judged once they are counted."""
    training = at.recipe.training
    by_epochs = training["eval_strategy"] == "epoch" and training["max_steps"] < 0
    return bool(by_epochs and training["num_train_epochs"] < training["eval_delay"])


@evaluation_never_runs.fault
def rows_held_out_for_nothing(world: World) -> None:
    """The strategy is left at its default."""
    world.recipe["data"]["eval"] = {"fraction": 0.25}


@evaluation_never_runs.fault
def a_strategy_without_rows(world: World) -> None:
    """transformers raises this after the model is loaded."""
    world.recipe["training"]["eval_strategy"] = "epoch"


@evaluation_never_runs.fault
def a_delay_beyond_the_end(world: World) -> None:
    """Two epochs, and evaluation from the third on."""
    world.recipe["data"]["eval"] = {"fraction": 0.25}
    world.recipe["training"] |= {"eval_strategy": "epoch", "eval_delay": 3}
