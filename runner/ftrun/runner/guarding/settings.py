"""The numbers that a run is made with, besides its weights: none is to change while it trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ftrun.checks.optimisation import AtSettings, Changed
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    from transformers import Trainer, TrainerCallback

    from ftrun.runner.guarding.watch import Watch

APART = 10
"""Steps between two looks at modules, of which there are thousands; the trainer is looked at in each."""


def read_trainer(trainer: Trainer) -> dict[str, float]:
    """The numbers among the arguments of a trainer, and those that it keeps of them under the same name."""
    numbers = {name: value for name, value in vars(trainer.args).items() if isinstance(value, float)}
    kept = {f"trainer.{name}": getattr(trainer, name, None) for name in numbers}
    own = {name: value for name, value in kept.items() if isinstance(value, float)}
    return {f"training.{name}": value for name, value in numbers.items()} | own


def read_modules(trainer: Trainer) -> dict[str, float]:
    """The numbers among the attributes of all modules of a model: a dropout, the scale of an adapter."""
    return {
        f"{name}.{key}": value
        for name, module in trainer.model.named_modules()
        for key, value in _find_numbers(vars(module))
    }


def _find_numbers(attributes: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in attributes.items():
        if type(value) is float:
            yield key, value
        elif type(value) is dict and not key.startswith("_"):
            yield from ((f"{key}.{one}", number) for one, number in value.items() if type(number) is float)


def make_callback(watch: Watch, at: AtModel) -> TrainerCallback:
    """A callback that compares the numbers with those of the first step, and asks the guard where one is another."""
    from transformers import TrainerCallback

    trainer = at.trainer

    class CompareSettings(TrainerCallback):  # type: ignore[misc, unused-ignore]  # transformers is untyped here
        known: Mapping[str, float] = {}

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if not self.known:  # remedies are applied by now
                self.known = read_trainer(trainer) | read_modules(trainer)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            now = read_trainer(trainer)
            if state.global_step % APART == 0 or control.should_save:
                now |= read_modules(trainer)
            changed = [
                Changed(name, self.known[name], value)
                for name, value in now.items()
                if name in self.known and value != self.known[name]
            ]
            if changed:
                step = state.global_step
                watch.ask(AtSettings(watch.training.recipe, watch.training.file, step, changed), step)

    return CompareSettings()
