"""The tokenizer that is saved with the model is not the one that rows were made with.

Symptom: the tuned model never stops, or is asked in another form than it was trained on.
Cause: the end token, the chat template or added tokens were set in memory, and are not saved with the tokenizer.
Fix: set them in the recipe (`training.eos_token`, `model.chat_template`) or in the model's own files.
Source: principle: saved and loaded, a tokenizer has the same end, padding and beginning, the same template, and makes
the same tokens of the first row. trl#3299, open-r1#603.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtModel, AtStep
from ftrun.checks.trials import made

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check(
    "MODEL024",
    title="the tokenizer that is saved is the one that made the rows",
    methods=("sft", "reward", "dpo"),
)
def saved_tokenizer_differs(at: AtStep) -> Iterator[Finding]:
    changed = made(at, "tokenizer")
    if changed:
        yield Finding(
            message=f"Saved and loaded again, the tokenizer differs in {len(changed)} ways: {changed[0]}.",
            fix="Set training.eos_token and model.chat_template, or correct the tokenizer's files beside the model.",
            where=at.where("model.chat_template" if changed[0].startswith("chat") else "training.eos_token"),
            evidence=changed,
        )


@saved_tokenizer_differs.fault
def template_is_not_saved(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        from pathlib import Path

        tokenizer: Any = at.trainer.processing_class
        save = tokenizer.save_pretrained

        def lose(folder: str) -> None:
            save(folder)
            (Path(folder) / "chat_template.jinja").unlink()

        tokenizer.save_pretrained = lose
        return at

    world.after(AtModel, damage)


@saved_tokenizer_differs.fault
def tokens_are_split_otherwise(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        from copy import deepcopy

        tokenizer: Any = at.trainer.processing_class
        other = deepcopy(tokenizer)
        other.backend_tokenizer.pre_tokenizer = None
        tokenizer.save_pretrained = other.save_pretrained
        return at

    world.after(AtModel, damage)
