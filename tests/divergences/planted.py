"""What goes wrong in a run: each at a step of a small one that is healthy otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from tests.divergences.runs import Plant
from transformers import Trainer, TrainerCallback

from ftrun.checks.stages import AtModel
from ftrun.checks.testing import (
    World,
    dpo_full,
    dpo_lora,
    ppo_full,
    ppo_lora,
    reward_full,
    sft_full,
    sft_lora,
)

STEPS, STEP = 40, 26
"""Of a run, and the one at which something happens."""

Do = Callable[[Trainer], None]


@dataclass(frozen=True)
class Divergence:
    """Something that goes wrong."""

    what: str
    make: Callable[[Path], World]
    plant: Plant
    told: tuple[str, ...]
    """Ids of guards, one of which is to tell it."""

    transient: bool = True
    """It happens once: the run is to end as its clean twin. Otherwise it is to be told, and to stop where it must."""

    in_recipe: bool = False
    """The recipe itself is at fault: there is no run without it."""

    within: int | None = 1
    """Steps within which it is told; None where it is not a step's event."""

    change: Callable[[World], None] = field(default=lambda world: None)


def make_world(make: Callable[[Path], World], folder: Path) -> World:
    """A small run of a method that learns, with checkpoints."""
    world = make(folder)
    rates = {"sft": 1e-3, "dpo": 3e-5, "reward": 2e-5, "ppo": 1e-4}
    rate = rates[world.recipe["method"]] * (4 if "lora" in world.recipe["model"] else 1)
    world.recipe["training"] |= {
        "learning_rate": rate,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "max_steps": STEPS,
        "num_train_epochs": 20,
        "save_strategy": "steps",
        "save_steps": 10,
        "logging_steps": 1,
    }
    world.recipe["guards"] = {"run_stalls": {"action": False}}
    return world


class _At(TrainerCallback):  # type: ignore[misc, unused-ignore]  # transformers is untyped here
    """Does something to a trainer at one step, in front of the forward pass or of the optimizer, or behind it."""

    def __init__(self, trainer: Trainer, steps: Iterable[int], where: str, do: Do, left: list[int]) -> None:
        self.trainer, self.steps, self.where, self.do, self.left = trainer, set(steps), where, do, left

    def _come(self, where: str, step: int) -> None:
        if where == self.where and step in self.steps and self.left[0] > 0:
            self.left[0] -= 1
            self.do(self.trainer)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._come("begin", state.global_step + 1)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._come("gradients", state.global_step + 1)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._come("behind", state.global_step + 1)


def once(do: Do, where: str = "begin", steps: Iterable[int] = (STEP,)) -> Plant:
    """At each of these steps, the first time that a run comes to it."""
    chosen = list(steps)
    left = [len(chosen)]
    return lambda at: at.trainer.add_callback(_At(at.trainer, chosen, where, do, left))


def always(do: Do, where: str = "begin", first: int = STEP) -> Plant:
    """At every step from one on, also after going back."""
    return lambda at: at.trainer.add_callback(_At(at.trainer, range(first, 10 * STEPS), where, do, [10**9]))


def set_rate(times: float) -> Do:
    """The rate of this step; the schedule sets its own behind it."""

    def do(trainer: Trainer) -> None:
        for group in trainer.optimizer.param_groups:
            group["lr"] *= times

    return do


def set_weight(value: float, part: str) -> Do:
    """One number in each matrix of that name."""

    def do(trainer: Trainer) -> None:
        for name, p in trainer.model.named_parameters():
            if part in name and p.requires_grad:
                p.data.view(-1)[7] = value

    return do


def scale_weights(times: float, part: str = "") -> Do:
    def do(trainer: Trainer) -> None:
        for name, p in trainer.model.named_parameters():
            if part in name and p.requires_grad:
                p.data.mul_(times)

    return do


def set_moments(name: str, value: float) -> Do:
    def do(trainer: Trainer) -> None:
        for state in trainer.optimizer.state.values():
            state[name].fill_(value)

    return do


def scale_loss(times: float) -> Do:
    """The loss of this step."""

    def do(trainer: Trainer) -> None:
        compute = trainer.compute_loss

        def scaled(*args: Any, **kwargs: Any) -> Any:
            trainer.compute_loss = compute
            return compute(*args, **kwargs) * times

        trainer.compute_loss = scaled

    return do


def set_gradient(value: float, part: str) -> Do:
    def do(trainer: Trainer) -> None:
        for name, p in trainer.model.named_parameters():
            if part in name and p.grad is not None:
                p.grad.fill_(value)

    return do


def shrink(part: str) -> Do:
    def do(trainer: Trainer) -> None:
        for name, p in trainer.model.named_parameters():
            if part in name and p.grad is not None:
                p.grad.mul_(1e-8)

    return do


def flip_gradients(times: float) -> Do:
    def do(trainer: Trainer) -> None:
        for p in trainer.model.parameters():
            if p.grad is not None:
                p.grad.mul_(-times)

    return do


def run_out_of_memory(trainer: Trainer) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


def move_frozen(trainer: Trainer) -> None:
    for p in trainer.model.parameters():
        if not p.requires_grad:
            p.data.add_(1e-3)


def move_reference(trainer: Trainer) -> None:
    reference = getattr(trainer, "ref_model", None) or trainer.reference
    for p in reference.parameters():
        p.data.add_(1e-3)


def fail_reward(trainer: Trainer) -> None:
    """The next scores are no numbers."""
    score = trainer.reward.score

    def broken(answers: Any) -> Any:
        object.__setattr__(trainer.reward, "score", score)  # it is frozen
        scores = score(answers)
        return replace(scores, total=scores.total * float("nan"))

    object.__setattr__(trainer.reward, "score", broken)


def hold_other_tensors(at: AtModel) -> None:
    """The optimizer trains a copy."""
    from copy import deepcopy

    copied = {id(p): torch.nn.Parameter(deepcopy(p.data)) for p in at.trainer.model.parameters()}
    for group in at.trainer.optimizer.param_groups:
        group["params"] = [copied[id(p)] for p in group["params"]]


def set_training(**settings: Any) -> Callable[[World], None]:
    return lambda world: world.recipe["training"].update(settings)


NAN, INF = float("nan"), float("inf")
UPDATE = ("GUARD001", "GUARD002", "GUARD020", "GUARD023")
LONGER = set_training(max_steps=60)
UNCLIPPED = set_training(max_grad_norm=0.0)


def list_divergences() -> list[Divergence]:
    """All of them."""
    return [*_supervised(), *_pairs(), *_policies(), *_lasting()]


def _supervised() -> list[Divergence]:
    sft = [
        ("the rate is 1e20 times as high for a step", once(set_rate(1e20))),
        ("the rate is 300 times as high for a step", once(set_rate(300.0))),
        ("a weight becomes infinite", once(set_weight(INF, "0.mlp.up_proj"), "behind")),
        ("a weight of the head becomes NaN", once(set_weight(NAN, "lm_head"), "behind")),
        (
            "a weight becomes 1e30, as a flipped bit makes it",
            once(set_weight(1e30, "1.self_attn.o_proj"), "behind"),
        ),
        ("Adam's first moments become NaN", once(set_moments("exp_avg", NAN))),
        ("Adam's second moments become negative", once(set_moments("exp_avg_sq", -1.0))),
        ("Adam's second moments become zero", once(set_moments("exp_avg_sq", 0.0))),
        ("a batch has a loss of NaN", once(scale_loss(NAN))),
        ("a batch has an infinite loss", once(scale_loss(INF))),
        ("a gradient is infinite", once(set_gradient(INF, "1.mlp.down_proj"), "gradients")),
        ("all weights are multiplied by 5", once(scale_weights(5.0))),
        ("the head is multiplied by -1", once(scale_weights(-1.0, "lm_head"))),
        ("a layer is multiplied by 100", once(scale_weights(100.0, "layers.1"))),
    ]
    slow = {
        "the rate is 300 times as high for a step",
        "Adam's second moments become zero",
        "all weights are multiplied by 5",
        "the head is multiplied by -1",
        "a layer is multiplied by 100",
    }
    found = [
        Divergence(f"sft: {what}", sft_full, plant, UPDATE, within=None if what in slow else 1)
        for what, plant in sft
    ]
    climb = once(flip_gradients(300.0), "gradients", range(STEP, STEP + 6))
    return [
        *found,
        Divergence(
            "sft: gradients point upwards for six steps",
            sft_full,
            climb,
            UPDATE,
            within=None,
            change=UNCLIPPED,
        ),
        Divergence("sft: the loss of a batch is 1e6 as large", sft_full, once(scale_loss(1e6)), ()),
        Divergence(
            "sft: … and gradients are not clipped",
            sft_full,
            once(scale_loss(1e6)),
            ("GUARD018",),
            change=UNCLIPPED,
        ),
        Divergence("sft: memory runs out", sft_full, once(run_out_of_memory), ("GUARD009",)),
        Divergence("sft, LoRA: the rate is 1e20 times as high", sft_lora, once(set_rate(1e20)), UPDATE),
        Divergence(
            "sft, LoRA: a weight becomes NaN", sft_lora, once(set_weight(NAN, "lora_B"), "behind"), UPDATE
        ),
        Divergence("sft, LoRA: moments become NaN", sft_lora, once(set_moments("exp_avg", NAN)), UPDATE),
    ]


def _pairs() -> list[Divergence]:
    found = []
    for name, make in (("dpo", dpo_full), ("reward", reward_full)):
        found += [
            Divergence(
                f"{name}: the rate is 1e20 times as high for a step", make, once(set_rate(1e20)), UPDATE
            ),
            Divergence(
                f"{name}: a weight becomes infinite",
                make,
                once(set_weight(INF, "0.mlp.up"), "behind"),
                UPDATE,
            ),
            Divergence(f"{name}: moments become NaN", make, once(set_moments("exp_avg", NAN)), UPDATE),
            Divergence(f"{name}: a batch has a loss of NaN", make, once(scale_loss(NAN)), UPDATE),
            Divergence(f"{name}: the loss of a batch is 1e6 as large", make, once(scale_loss(1e6)), ()),
        ]
    return [
        *found,
        Divergence(
            "dpo, LoRA: a weight becomes NaN", dpo_lora, once(set_weight(NAN, "lora_A"), "behind"), UPDATE
        ),
        Divergence("reward: memory runs out", reward_full, once(run_out_of_memory), ("GUARD009",)),
    ]


def _policies() -> list[Divergence]:
    return [
        Divergence(
            "ppo: the rate is 1e20 times as high for a step",
            ppo_full,
            once(set_rate(1e20)),
            UPDATE,
            within=None,
        ),
        Divergence(
            "ppo: a weight of the policy becomes NaN",
            ppo_full,
            once(set_weight(NAN, "policy.lm_head"), "behind"),
            UPDATE,
        ),
        Divergence(
            "ppo: a weight of the value model becomes infinite",
            ppo_full,
            once(set_weight(INF, "value.model.layers.1.mlp"), "behind"),
            UPDATE,
        ),
        Divergence("ppo: moments become NaN", ppo_full, once(set_moments("exp_avg", NAN)), UPDATE),
        Divergence(
            "ppo: a gradient is infinite",
            ppo_full,
            once(set_gradient(INF, "value.score"), "gradients"),
            UPDATE,
        ),
        Divergence("ppo: scores are no numbers", ppo_full, once(fail_reward), UPDATE, within=None),
        Divergence(
            "ppo, LoRA: a weight becomes NaN", ppo_lora, once(set_weight(NAN, "lora_B"), "behind"), UPDATE
        ),
    ]


def _lasting() -> list[Divergence]:
    told = [
        (
            "sft: betas are absurd, the rate too high and nothing is clipped",
            sft_full,
            lambda at: None,
            UPDATE,
            set_training(adam_beta1=0.999, adam_beta2=0.01, learning_rate=0.3, max_grad_norm=0.0),
        ),
        ("sft, LoRA: the frozen base moves", sft_lora, once(move_frozen), ("GUARD016",), None),
        ("dpo: the reference moves", dpo_full, once(move_reference), ("GUARD016",), None),
        ("ppo: the reference moves", ppo_full, once(move_reference), ("GUARD016",), None),
        (
            "sft: the optimizer holds other tensors",
            sft_full,
            hold_other_tensors,
            ("GUARD008", "GUARD017"),
            LONGER,
        ),
        (
            "sft: a layer is given no gradient",
            sft_full,
            always(set_gradient(0.0, "layers.0."), "gradients"),
            ("GUARD008",),
            LONGER,
        ),
        (
            "sft: the gradient vanishes in a layer",
            sft_full,
            always(shrink("layers.0."), "gradients"),
            ("GUARD008",),
            LONGER,
        ),
    ]
    return [
        Divergence(
            what,
            make,
            plant,
            ids,
            transient=False,
            in_recipe="betas" in what,
            within=None,
            change=change or (lambda world: None),
        )
        for what, make, plant, ids, change in told
    ]
