"""A second set of what goes wrong in a run, written down before anybody looked at the guards or at the first set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from tests.divergences.planted import (
    LONGER,
    NAN,
    STEP,
    UNCLIPPED,
    UPDATE,
    Divergence,
    Do,
    always,
    once,
    scale_loss,
    scale_weights,
    set_gradient,
    set_rate,
)
from tests.divergences.runs import Plant
from transformers import Trainer

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

Batch = dict[str, Any]

HARMLESS = ""
"""Stands for no guard: it may be silent where the run ends as its twin."""


def change_batches(change: Callable[[Batch], None], count: int) -> Plant:
    """What the data loader feeds in so many steps from STEP on, the first time that a run comes to them."""
    left = [count]

    def plant(at: AtModel) -> None:
        collate, made = at.trainer.data_collator, [0]

        def changed(rows: Any) -> Batch:
            batch: Batch = collate(rows)
            made[0] += 1
            if made[0] >= STEP and left[0]:
                left[0] -= 1
                change(batch)
            return batch

        at.trainer.data_collator = changed

    return plant


def feed_noise(batch: Batch) -> None:
    draw = torch.Generator().manual_seed(0)
    batch["input_ids"] = torch.randint(5, 300, batch["input_ids"].shape, generator=draw)
    batch["labels"] = batch["input_ids"].clone()


def repeat_a_token(batch: Batch) -> None:
    batch["input_ids"][0] = batch["labels"][0] = 11


def shuffle_labels(batch: Batch) -> None:
    labels = batch["labels"]
    taught = labels != -100
    order = torch.randperm(int(taught.sum()), generator=torch.Generator().manual_seed(0))
    labels[taught] = labels[taught][order]


def exchange_sides(batch: Batch) -> None:
    half = len(batch["input_ids"]) // 2
    for name in ("input_ids", "attention_mask", "completion_mask"):
        if name in batch:
            batch[name] = torch.cat((batch[name][half:], batch[name][:half]))


def feed_the_same() -> Callable[[Batch], None]:
    """A change of every batch into the first that is changed."""
    kept: Batch = {}

    def feed(batch: Batch) -> None:
        kept.update({} if kept else batch)
        batch.update(kept)

    return feed


def scale_adapters(times: float) -> Do:
    def do(trainer: Trainer) -> None:
        for module in trainer.model.modules():
            if hasattr(module, "scaling") and isinstance(module.scaling, dict):
                module.scaling = {name: value * times for name, value in module.scaling.items()}

    return do


def replace_weights(part: str, deviation: float) -> Do:
    def do(trainer: Trainer) -> None:
        draw = torch.Generator().manual_seed(0)
        for name, p in trainer.model.named_parameters():
            if part in name and p.requires_grad:
                p.data.copy_(torch.randn(p.shape, generator=draw) * deviation)

    return do


def drop_out(share: float) -> Do:
    def do(trainer: Trainer) -> None:
        for module in trainer.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = share

    return do


def spoil_schedule(times: float) -> Do:
    def do(trainer: Trainer) -> None:
        trainer.lr_scheduler.base_lrs = [rate * times for rate in trainer.lr_scheduler.base_lrs]
        set_rate(times)(trainer)

    return do


def forget_moments(trainer: Trainer) -> None:
    for state in trainer.optimizer.state.values():
        for value in state.values():
            value.zero_()


def spoil_one_moment(trainer: Trainer) -> None:
    next(iter(trainer.optimizer.state.values()))["exp_avg"].view(-1)[0] = NAN


def spoil_positions(trainer: Trainer) -> None:
    for name, buffer in trainer.model.named_buffers():
        if "inv_freq" in name:
            buffer.fill_(float("inf"))


def decay_to_nothing(trainer: Trainer) -> None:
    """One step with a weight decay that takes all of each weight."""
    before = [group["weight_decay"] for group in trainer.optimizer.param_groups]
    step = trainer.optimizer.step

    def restore(*args: Any, **kwargs: Any) -> Any:
        done = step(*args, **kwargs)
        for group, decay in zip(trainer.optimizer.param_groups, before, strict=True):
            group["weight_decay"] = decay
        trainer.optimizer.step = step
        return done

    for group in trainer.optimizer.param_groups:
        group["weight_decay"] = 1 / group["lr"]
    trainer.optimizer.step = restore


def raise_beta(times: float) -> Do:
    def do(trainer: Any) -> None:
        trainer.beta = trainer.args.beta = trainer.beta * times

    return do


def spoil_a_class(trainer: Trainer) -> None:
    """The logits of one token are infinite from now on."""
    trainer.model.get_output_embeddings().weight.data[9] = float("inf")


def scale_gradients(times: float) -> Do:
    def do(trainer: Trainer) -> None:
        for p in trainer.model.parameters():
            if p.grad is not None:
                p.grad.mul_(times)

    return do


def spoil_evaluation(trainer: Trainer) -> None:
    predict = trainer.prediction_step

    def spoilt(*args: Any, **kwargs: Any) -> Any:
        trainer.prediction_step = predict
        loss, *rest = predict(*args, **kwargs)
        return (loss * NAN, *rest)

    trainer.prediction_step = spoilt


def score_once(value: float) -> Do:
    """The next rollout has a first answer of this score."""

    def do(trainer: Any) -> None:
        score = trainer.reward.score

        def broken(answers: Any) -> Any:
            object.__setattr__(trainer.reward, "score", score)  # it is frozen
            scores = score(answers)
            total = scores.total.clone()
            total[0] = value
            return replace(scores, total=total)

        object.__setattr__(trainer.reward, "score", broken)

    return do


def evaluate(world: World) -> None:
    world.recipe["data"]["eval"] = {"fraction": 0.25}
    world.recipe["training"] |= {"eval_strategy": "steps", "eval_steps": 4}


def list_unforeseen() -> list[Divergence]:
    """All of them."""
    return [*_rows(), *_weights(), *_optimizers(), *_others(), *_policies()]


DATA = ("GUARD006",)
WRITTEN = UPDATE
SET = (*UPDATE, "GUARD024")


def _rows() -> list[Divergence]:
    return [
        Divergence("sft: a batch is noise", sft_full, change_batches(feed_noise, 1), DATA, False),
        Divergence(
            "sft: a row is one token, in six batches",
            sft_full,
            change_batches(repeat_a_token, 6),
            DATA,
            False,
        ),
        Divergence(
            "sft: labels are shuffled in eight batches",
            sft_full,
            change_batches(shuffle_labels, 8),
            DATA,
            False,
        ),
        Divergence(
            "reward: the sides of pairs are exchanged in eight batches",
            reward_full,
            change_batches(exchange_sides, 8),
            DATA,
            False,
        ),
        Divergence(
            "sft: the data loader repeats one batch for ever",
            sft_full,
            change_batches(feed_the_same(), 10**9),
            DATA,
            transient=False,
            within=None,
        ),
    ]


def _weights() -> list[Divergence]:
    return [
        Divergence(
            "sft, LoRA: adapters weigh a thousand times as much",
            sft_lora,
            once(scale_adapters(1000.0)),
            SET,
            within=None,
        ),
        Divergence(
            "sft: a layer is replaced by noise",
            sft_full,
            once(replace_weights("layers.1", 0.5)),
            WRITTEN,
            within=None,
        ),
        Divergence(
            "dpo, LoRA: adapters are replaced by noise",
            dpo_lora,
            once(replace_weights("lora_", 0.3)),
            WRITTEN,
            within=None,
        ),
        Divergence(
            "reward: the head is multiplied by 1000",
            reward_full,
            once(scale_weights(1000.0, "score")),
            WRITTEN,
            within=None,
        ),
        Divergence(
            "sft: the frequencies of positions become infinite", sft_full, once(spoil_positions), UPDATE
        ),
        Divergence("dpo: the logits of one token are infinite", dpo_full, once(spoil_a_class), UPDATE),
    ]


def _optimizers() -> list[Divergence]:
    return [
        Divergence(
            "sft: the schedule multiplies the rate by 1000, for good",
            sft_full,
            once(spoil_schedule(1000.0)),
            WRITTEN,
            within=None,
        ),
        Divergence(
            "sft: … also after going back", sft_full, always(set_rate(1000.0)), WRITTEN, False, within=None
        ),
        Divergence(
            "dpo: the rate is 1000 times as high for a step",
            dpo_full,
            once(set_rate(1000.0)),
            WRITTEN,
            within=None,
        ),
        Divergence(
            "reward: the rate is 30 times as high for good",
            reward_full,
            once(spoil_schedule(30.0)),
            (*WRITTEN, HARMLESS),
            within=None,
        ),
        Divergence(
            "sft: the optimizer forgets what it knew", sft_full, once(forget_moments), (HARMLESS, *UPDATE)
        ),
        Divergence("reward: one number of one moment is NaN", reward_full, once(spoil_one_moment), UPDATE),
        Divergence(
            "sft: one step decays every weight to nothing",
            sft_full,
            once(decay_to_nothing),
            WRITTEN,
            within=None,
        ),
        Divergence(
            "sft, LoRA: the loss of a batch is 1e6 as large, unclipped",
            sft_lora,
            once(scale_loss(1e6)),
            ("GUARD018", *UPDATE),
            change=UNCLIPPED,
        ),
        Divergence(
            "sft: gradients are accumulated twice, for good",
            sft_full,
            always(scale_gradients(2.0), "gradients"),
            (HARMLESS,),
        ),
    ]


def _others() -> list[Divergence]:
    return [
        Divergence("dpo: beta is 100 times as high", dpo_full, once(raise_beta(100.0)), SET, within=None),
        Divergence(
            "sft, LoRA: dropout becomes 0.99",
            sft_lora,
            once(drop_out(0.99)),
            SET,
            within=None,
            change=lambda world: world.recipe["model"]["lora"].update(lora_dropout=0.05),
        ),
        Divergence(
            "sft: an evaluation is no number, once",
            sft_full,
            once(spoil_evaluation),
            ("GUARD015",),
            within=None,
            change=evaluate,
        ),
        Divergence(
            "sft: no gradient reaches any weight, from a step on",
            sft_full,
            always(set_gradient(0.0, ""), "gradients"),
            ("GUARD008", "GUARD017"),
            transient=False,
            within=None,
            change=LONGER,
        ),
    ]


def _policies() -> list[Divergence]:
    return [
        Divergence("ppo: a score is infinite", ppo_full, once(score_once(float("inf"))), UPDATE, within=None),
        Divergence(
            "ppo: a score is 1e9", ppo_full, once(score_once(1e9)), (*UPDATE, "GUARD025"), within=None
        ),
        Divergence(
            "ppo: the value model is multiplied by 1e4",
            ppo_full,
            once(scale_weights(1e4, "value.score")),
            (*WRITTEN, HARMLESS),
            within=None,
        ),
        Divergence(
            "ppo, LoRA: adapters weigh 50 times as much",
            ppo_lora,
            once(scale_adapters(50.0)),
            (*SET, "GUARD005"),
            within=None,
        ),
    ]
