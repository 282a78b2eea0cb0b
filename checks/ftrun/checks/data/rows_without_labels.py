"""Rows have no trained token.

Symptom: fewer steps than the file has rows, a loss of 0.0, or no training at all.
Cause: the prompt alone fills max_length and nothing of the answer is left, the conversation has no turn of
the assistant, or the chat template marks none.
Fix: raise training.max_length, shorten the prompts, or remove rows that hold no answer.
Source: shares of 1 % (warning) and 10 % (error): trl#6320, trl#6321, unsloth#2364.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.examples import messages_of, parts_of, spread
from ftrun.checks.finding import Finding, Severity
from ftrun.checks.rows import IGNORED, Rows
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

MANY, SOME = 0.10, 0.01


@check("DATA009", title="every row has trained tokens", methods=("sft", "reward", "dpo"))
def rows_without_labels(at: AtData) -> Iterator[Finding]:
    yield from _judge_kept(at)
    for name, rows in (("training", at.train), ("evaluation", at.eval)):
        if rows is None or not len(rows.dropped):
            continue
        total, dropped = len(rows) + len(rows.dropped), len(rows.dropped)
        reason, key = _explain(at, rows)
        yield Finding(
            message=f"{dropped} of {total} {name} rows are left out, since no token of them would be "
            f"trained: {reason}.{'' if len(rows) else ' No row is left.'}",
            fix="Raise training.max_length, shorten the prompts, or remove these rows."
            if key == "training.max_length"
            else "Remove these rows, call their roles user and assistant, or correct data.loss_on or "
            "model.chat_template.",
            where=at.where(key),
            evidence=tuple(f"{rows.where(source, one)}" for source, one in rows.dropped[:3].tolist()),
            severity=_grade(dropped / total),
        )


def _grade(share: float) -> Severity:
    return "error" if share > MANY else "warning" if share > SOME else "info"


def _explain(at: AtData, rows: Rows) -> tuple[str, str]:
    """Why rows were dropped, judged by a few dozen of them, and the recipe's key to look at."""
    max_length = at.recipe.training["max_length"]
    reasons: Counter[tuple[str, str]] = Counter()
    for index in spread(len(rows.dropped), 32):
        source, example = rows.dropped[index].tolist()
        loss_on = rows.sources[source].loss_on
        parts = parts_of(rows.sources[source].examples[example], loss_on)
        if not any(part.answer for part in parts):
            reasons[_without_answer(rows.sources[source].examples[example]), rows.sources[source].key] += 1
        elif max_length is not None and _tokens(at, [part.text for part in parts]) > 0.5 * max_length:
            # Half of it, since what the template adds is not counted here.
            reasons[
                f"nothing of their answers is left at max_length {max_length}", "training.max_length"
            ] += 1
        else:
            reasons[
                f"the chat template marks nothing in them for loss on {loss_on}", "model.chat_template"
            ] += 1
    return reasons.most_common(1)[0][0]


def _without_answer(example: Mapping[str, Any]) -> str:
    roles = sorted({str(message["role"]) for message in messages_of(example)})
    if not roles or "assistant" in roles:
        return "they hold no answer"
    return f"their turns have the role {' or '.join(roles)}, and none is the assistant's"


def _tokens(at: AtData, texts: list[str]) -> int:
    return sum(len(ids) for ids in at.tokenizer(texts, add_special_tokens=False)["input_ids"])


def _judge_kept(at: AtData) -> Iterator[Finding]:
    """Every row that the data loader feeds must have a label, and there must be one to feed."""
    import numpy as np

    unreadable = any(count.unreadable for count in at.counts)  # DATA005 tells them
    if not len(at.train) and not len(at.train.dropped) and not unreadable:
        yield Finding(
            message="There is no training row.",
            fix="Raise the weight of a source in data.train, or give a source with more rows.",
            where=at.where("data.train"),
        )
    bare = np.flatnonzero(at.train.trained == 0)
    if len(bare):
        yield Finding(
            message=f"{len(bare)} of {len(at.train)} rows that would be fed have no label: they cost "
            "time and teach nothing.",
            fix="Report it if ftrun made these rows; otherwise give each row a trained token.",
            where=at.train[int(bare[0])].where,
        )


@rows_without_labels.fault
def prompts_fill_max_length(world: World) -> None:
    world.recipe["training"]["max_length"] = 64
    for row in world.rows[::2]:
        row["prompt"] = "Here is a long story about the house. " * 20


@rows_without_labels.fault
def every_prompt_fills_max_length(world: World) -> None:
    world.recipe["training"]["max_length"] = 8


@rows_without_labels.fault
def conversations_without_answers(world: World) -> None:
    for index, row in enumerate(world.rows):
        messages = [{"role": "user", "content": row["prompt"]}]
        if index % 4:
            messages.append({"role": "assistant", "content": row["completion"]})
        world.rows[index] = {"messages": messages}


@rows_without_labels.fault
def labels_are_all_masked(world: World) -> None:
    import numpy as np

    world.after(
        AtData,
        lambda at: replace(at, train=replace(at.train, labels=np.full_like(at.train.labels, IGNORED))),
    )
