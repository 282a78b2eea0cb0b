"""Watching DPO: how far each evaluation finds the policy from its reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftrun.checks.rollouts import AtDistance, Distance

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from ftrun.runner.guarding.watch import Watch


def make_callback(watch: Watch) -> TrainerCallback:
    """Asks the guards of a DPO trainer that has not begun to train."""
    from transformers import TrainerCallback

    distances: list[Distance] = []

    class AskOfDistance(TrainerCallback):  # type: ignore[misc, unused-ignore]  # transformers is untyped here
        def on_evaluate(
            self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any
        ) -> None:
            if "eval_kl" in metrics:
                kl, narrowed = metrics["eval_kl"], metrics["eval_kl_narrowed"]
                length = kl / metrics["eval_kl_per_token"] if kl else 0.0
                distances.append(Distance(state.global_step, kl, narrowed, length))
                training = watch.training
                watch.ask(AtDistance(training.recipe, training.file, distances, None), state.global_step)

    return AskOfDistance()
