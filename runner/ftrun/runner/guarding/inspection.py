"""Looks at gradients and weights, about a hundred in a run: what losses and one norm of all do not tell.

A look reads the gradients that the optimizer is about to be given, and behind the step the weights: fused norms, and 64
values of each tensor. Nothing is hooked into the model. Numbers reach the guards as losses do: a GPU is not waited for,
but where a checkpoint is about to be written.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ftrun.checks.optimisation import AtLook, Layer, Look, layer_of
from ftrun.checks.stages import AtModel
from ftrun.runner.guarding.reach import find_jumps
from ftrun.runner.guarding.transfer import bring
from ftrun.runner.ranks import gather

if TYPE_CHECKING:
    import torch
    from transformers import Trainer, TrainerCallback

    from ftrun.runner.guarding.watch import Watch

GUARDS = frozenset(
    {"gradients_vanish_in_layers", "frozen_weights_move", "weights_not_finite", "weights_jump"}
)
"""Those that wait for a look."""

LOOKS, APART = 100, 10
"""Looks in a run, and steps between two of them at least."""

SAMPLE = 64
"""Values of each tensor that are compared."""

SMALL = 1e-7
"""A gradient under which Adam's ε may keep a weight in place, as in TRAIN019."""


@dataclass(frozen=True)
class _Seen:
    """What a look saw of the gradients of an update: of each trained tensor by name, on the device."""

    norms: Mapping[str, torch.Tensor]
    pushes: torch.Tensor
    """The largest gradient among the values of the sample: shape (tensors of `norms`,)."""

    rate: float


class Inspector:
    """What is looked at in a trainer, and what was seen last."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.looks: deque[Look] = deque(maxlen=20)
        self.frozen = dict(_find_frozen(trainer))
        self.device = trainer.args.device
        self.start = take_sample(self.frozen.values(), self.device)
        trained = dict(_find_trained(trainer))
        self.last = tuple(trained), take_sample(trained.values(), self.device), trainer.state.global_step
        self.before: tuple[tuple[str, ...], torch.Tensor] | None = None
        self.rate = 0.0

    def see_gradients(self) -> _Seen:
        """Read the gradients as they are now, in front of an optimizer step."""
        named = {name: p.grad for name, p in _find_trained(self.trainer) if p.grad is not None}
        norms = measure_norms(list(named.values()))
        pushes = take_sample(named.values(), self.device).abs().amax(1)
        rates = [float(group["lr"]) for group in self.trainer.optimizer.param_groups]
        return _Seen(dict(zip(named, norms, strict=True)), pushes, max(rates))

    def see_weights(self, step: int, seen: _Seen | None) -> Callable[[], Look]:
        """Read the weights behind a step, whose gradients were `seen` where they were looked at. What is returned
        waits for the numbers."""
        import torch

        trained = dict(_find_trained(self.trainer))
        names, sample = tuple(trained), take_sample(trained.values(), self.device)
        parts = [
            _gather(measure_norms(list(trained.values())), self.device),
            _differ(take_sample(self.frozen.values(), self.device), self.start),
            self._find_jumps(trained, sample, step),
        ]
        moved = None
        if seen is not None:
            if self.before is not None and self.before[0] == names and min(self.rate, seen.rate) > 0:
                moved = _differ(sample, self.before[1])
            self.before, self.rate = (names, sample), seen.rate
            parts += [_gather(seen.norms.values(), self.device), seen.pushes]
        read = bring(torch.cat(parts if moved is None else [*parts, moved]))

        def wait() -> Look:
            numbers = iter(read())
            weights = {name: next(numbers) for name in names}
            changed = tuple(name for name in self.frozen if next(numbers))
            jumps = {name: next(numbers) for name in names}
            pushed = () if seen is None else tuple(seen.norms)
            norms = {name: next(numbers) for name in pushed}
            pushes = {name: next(numbers) for name in pushed}
            motion = {} if moved is None else {name: bool(next(numbers)) for name in names}
            return Look(
                step,
                {} if seen is None else _sum_layers(names, norms),
                _find_still(trained, pushes, motion),
                changed,
                tuple(name for name, norm in weights.items() if not _is_finite(norm, trained[name])),
                {name: times for name, times in jumps.items() if 1 < times < math.inf},
            )

        return wait

    def _find_jumps(
        self, trained: Mapping[str, torch.Tensor], sample: torch.Tensor, step: int
    ) -> torch.Tensor:
        import torch

        names, before, since = self.last
        self.last = tuple(trained), sample, step
        if names != self.last[0]:
            return torch.zeros(len(sample), device=self.device)
        return find_jumps(self.trainer.args, trained.values(), before, sample, step - since)


def measure_norms(tensors: list[torch.Tensor]) -> Sequence[torch.Tensor]:
    """The norm of each tensor, fused."""
    import torch

    # torch has no public name for it; `torch.nn.utils.get_total_norm` rests on the same.
    return torch._foreach_norm(tensors) if tensors else ()  # pyright: ignore[reportPrivateImportUsage]


def take_sample(tensors: Iterable[torch.Tensor], device: torch.device) -> torch.Tensor:
    """SAMPLE values of each tensor, evenly spread, and zeros behind those of a smaller one: shape (tensors, SAMPLE)."""
    import torch

    rows = []
    for tensor in tensors:
        flat = tensor.detach().reshape(-1)
        row = flat[:: max(1, len(flat) // SAMPLE)][:SAMPLE].to(device, torch.float32)
        rows.append(row if len(row) == SAMPLE else torch.nn.functional.pad(row, (0, SAMPLE - len(row))))
    return torch.stack(rows) if rows else torch.zeros(0, SAMPLE, device=device)


def _gather(numbers: Iterable[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Numbers, each a tensor, in one on the device that is read."""
    import torch

    found = [number.to(device, torch.float32) for number in numbers]
    return torch.stack(found) if found else torch.zeros(0, device=device)


def _differ(now: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """1 for each tensor whose sample changed."""
    return (now != before).any(1).float()


def _find_trained(trainer: Trainer) -> Iterator[tuple[str, torch.Tensor]]:
    return ((name, p) for name, p in trainer.model.named_parameters() if p.requires_grad and p.numel())


def _find_frozen(trainer: Trainer) -> Iterator[tuple[str, torch.Tensor]]:
    """What is not to change: frozen parameters of the model, its reference, and models that reward."""
    arguments = trainer.args
    own: Sequence[Any] = getattr(getattr(trainer, "reward", None), "models", ())
    models = {
        "": trainer.model,
        "reference.": None
        if getattr(arguments, "sync_ref_model", False)
        else getattr(trainer, "ref_model", None),
        "start.": getattr(trainer, "reference", None),
        **{f"reward {number}.": one.model for number, one in enumerate(own)},
    }
    for prefix, model in models.items():
        for name, p in () if model is None else model.named_parameters():
            if not p.requires_grad and not p.is_meta and p.numel():
                yield prefix + name, p


def _sum_layers(names: Sequence[str], norms: Mapping[str, float]) -> dict[Layer, float]:
    """The norm of each layer's gradient; zero for a layer that has none."""
    squares: dict[Layer, list[float]] = {}
    for name in names:
        squares.setdefault(layer_of(name), []).append(norms.get(name, 0.0))
    return {layer: math.hypot(*values) for layer, values in squares.items()}


def _find_still(
    trained: Mapping[str, torch.Tensor], pushes: Mapping[str, float], motion: Mapping[str, bool]
) -> frozenset[Layer]:
    """Layers none of whose matrices moved, of those whose sample was given gradients. Vectors are left out: the ones
    of a norm in bfloat16 round to where they are in healthy runs."""
    moved: dict[Layer, bool] = {}
    for name, push in pushes.items():
        if push > SMALL and trained[name].dim() > 1 and name in motion:
            layer = layer_of(name)
            moved[layer] = moved.get(layer, False) or motion[name]
    return frozenset(layer for layer, any_moved in moved.items() if not any_moved)


def _is_finite(norm: float, tensor: torch.Tensor) -> bool:
    """Whether a tensor is all numbers: told by its norm, or, where squares overflow, by its values."""
    return math.isfinite(norm) or bool(tensor.isfinite().all())


def merge(looks: Sequence[Look]) -> Look:
    """What the looks of all processes at an update showed: of gradients, which they share, and what one of them saw."""
    first = looks[0]
    if len(looks) == 1:
        return first
    return replace(
        first,
        still=first.still.union(*(one.still for one in looks)),
        frozen_moved=tuple(dict.fromkeys(name for one in looks for name in one.frozen_moved)),
        not_finite=tuple(dict.fromkeys(name for one in looks for name in one.not_finite)),
        jumped={name: times for one in looks for name, times in one.jumped.items()},
    )


def make_callback(watch: Watch, at: AtModel) -> TrainerCallback:
    """A callback that looks at a trainer and asks the guards that wait for it."""
    from transformers import TrainerCallback

    trainer = at.trainer
    waiting: list[Callable[[], Look]] = []

    class LookAtWeights(TrainerCallback):  # type: ignore[misc, unused-ignore]  # transformers is untyped here
        inspector: Inspector
        seen: _Seen | None = None
        every = APART
        last = 0

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.inspector = Inspector(trainer)
            self.every, self.last = max(APART, math.ceil(state.max_steps / LOOKS)), state.global_step

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if (state.global_step + 1) % self.every == 0 and state.global_step + 1 not in watch.skipped:
                self.seen = self.inspector.see_gradients()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.ask()
            if self.seen is not None or control.should_save:
                self.look(state.global_step)
            if args.device.type == "cpu" or control.should_save:
                self.ask()

        def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if args.save_strategy == "best":  # whether it is the best is decided next
                self.look(state.global_step)
            self.ask()

        def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if control.should_save:
                self.look(state.global_step)
            self.ask()

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if not args.load_best_model_at_end:  # which are weights of another step
                self.look(state.global_step)
            self.ask()

        def look(self, step: int) -> None:
            if step > self.last:
                waiting.append(self.inspector.see_weights(step, self.seen))
                self.seen, self.last = None, step

        def ask(self) -> None:
            while waiting:
                look = merge(gather(waiting.pop(0)(), "a look at weights"))
                self.inspector.looks.append(look)
                watch.ask(AtLook(watch.training.recipe, watch.training.file, self.inspector.looks), look.step)

    return LookAtWeights()
