"""What the model makes of an answer does not depend on the prompt before it.

Symptom: the tuned model writes fluent answers to questions that nobody asked.
Cause: an attention mask that hides the prompt, a model or patch that attends too near, or a template or truncation
that leaves the same prompt, or none, before every answer.
Fix: look at the batch that the data collator makes, and at the rows with `ftrun preview`.
Prevention: leave the attention mask to the collator; only labels hide a prompt from the loss.
Source: the input-independent baseline of Karpathy (A Recipe for Training Neural Networks, 2019): the cost of answers
of the first batch with their own prompts and with each other's, at the start and after 25 steps on them. Even random
weights heed what they see. Measured as a share of the cost, the larger of the two differences: 9e-3 to 0.06 in
healthy runs at usual rates and a hundredth of them, also in bfloat16; with hidden prompts 8e-8, and 1.4e-4 in
bfloat16. Under 1e-5 is an error, in half precision under 2e-4 a warning.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import takewhile
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import parts_of, spread
from ftrun.checks.experiments import Learning
from ftrun.checks.finding import Finding
from ftrun.checks.rows import IGNORED
from ftrun.checks.stages import AtModel, AtStep
from ftrun.checks.trials import COARSE, made, tolerance

if TYPE_CHECKING:
    from ftrun.checks.testing import World

FINE_SHARE, COARSE_SHARE = 1e-5, 2e-4
"""Of what answers cost, the difference under which another prompt makes none: in float32, and in halves."""

SAMPLE = 64
"""Rows whose prompts are compared."""


@check(
    "TRAIN040",
    title="answers depend on their prompts",
    methods=("sft", "dpo", "reward"),
)
def answers_ignore_prompts(at: AtStep) -> Iterator[Finding]:
    texts, tokens = _sample_prompts(at)
    if len(texts) > 1 and len(tokens) == 1:
        left = f"the same {len(next(iter(tokens)))} tokens" if all(tokens) else "nothing"
        yield Finding(
            message=f"{len(texts)} different prompts were looked at, and {left} is left of each before its answer.",
            fix="Raise training.max_length or keep the start of rows (training.truncation_mode), and see that "
            "model.chat_template renders what users say.",
            where=at.where("training.max_length"),
        )
        return
    learnt: Learning = made(at, "learnt")
    if learnt.own is None or learnt.exchanged is None:
        raise NotApplicable(learnt.kept)
    own, other = learnt.own, learnt.exchanged
    if not all(math.isfinite(cost) for cost in (*own, *other)) or own[0] == 0:
        raise NotApplicable("the answers' cost is zero or not finite")
    coarse = tolerance(at) == COARSE
    least = (COARSE_SHARE if coarse else FINE_SHARE) * abs(own[0])
    if max(abs(own[0] - other[0]), abs(own[1] - other[1])) > least:
        return
    yield Finding(
        message=f"Answers of the first batch cost {own[0]:.6g} with their own prompts and {other[0]:.6g} with each "
        f"other's; after {len(learnt.losses)} steps on them {own[1]:.6g} and {other[1]:.6g}. The prompts do not "
        "reach the answers.",
        fix="Let the attention mask show the prompt, and look at what the data collator makes of the rows.",
        where=at.where("data"),
        severity="warning" if coarse else None,
    )


def _sample_prompts(at: AtStep) -> tuple[set[tuple[str, ...]], set[tuple[int, ...]]]:
    """The different prompts of some rows: as texts, and as the tokens before the first trained one."""
    texts, tokens = set(), set()
    for index in spread(len(at.train), SAMPLE):
        row = at.train[int(index)]
        parts = parts_of(row.example, row.source.loss_on)
        prompt = tuple(part.text for part in takewhile(lambda part: not part.answer, parts))
        if prompt:
            texts.add(prompt)
            tokens.add(tuple(row.ids[: int((row.labels != IGNORED).argmax())].tolist()))
    return texts, tokens


def _hide_prompts(at: AtModel) -> AtModel:
    """Let the collator mask prompts out of the attention, where labels alone should leave them out of the loss."""
    collate = at.trainer.data_collator

    def hide(rows: object) -> object:
        batch = collate(rows)
        batch["attention_mask"] *= batch["labels"] != IGNORED
        return batch

    at.trainer.data_collator = hide
    return at


@answers_ignore_prompts.fault
def attention_hides_the_prompt(world: World) -> None:
    world.recipe["preflight"] = {"experiments": True}
    world.after(AtModel, _hide_prompts)


@answers_ignore_prompts.fault
def attention_hides_the_prompt_in_half_precision(world: World) -> None:
    world.recipe["preflight"] = {"experiments": True}
    world.recipe["training"] |= {"bf16": True, "use_cpu": True}
    world.after(AtModel, _hide_prompts)


@answers_ignore_prompts.fault
def attention_gives_nothing(world: World) -> None:
    """As a kernel does that does not fit the device, and gives zeros."""

    def damage(at: AtModel) -> AtModel:
        for layer in at.model.model.layers:
            layer.self_attn.register_forward_hook(lambda module, inputs, output: (output[0] * 0, *output[1:]))
        return at

    world.recipe["preflight"] = {"experiments": True}
    world.after(AtModel, damage)


@answers_ignore_prompts.fault
def prompts_are_cut_away(world: World) -> None:
    world.recipe["training"] |= {"truncation_mode": "keep_end", "max_length": 8}
    world.recipe["preflight"] = {"ignore": {"DATA004": "to see what is left"}}
