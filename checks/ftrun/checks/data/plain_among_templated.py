"""Some questions are rendered by the chat template, and others are read as plain text.

Symptom: the model answers well in one of two forms, or the loss on held-out rows is of another task than the training
loss.
Cause: one source has messages, another one prompts and completions of plain text, which no template renders.
Fix: write both as messages.
Prevention: compare a row of each source with `ftrun preview`.
Source: told are sources of prompts and answers of which a half end as a question or an instruction does, with a mark
that ends a sentence, beside sources of conversations: a warning where one form is trained and the other evaluated, and
an info where both are trained. Prompts that end as the template's own do were rendered beforehand. Plain text without
prompts is not judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import is_chat, spread
from ftrun.checks.finding import Finding
from ftrun.checks.rows import IGNORED, Row
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

HALF = 0.5
SAMPLE = 128
ENOUGH = 8
TAIL = 2
"""Tokens before the answer, as the template writes them, that tell its form."""

ENDS = (".", "?", "!", ":", "。", "？", "！", "：")


@check(
    "DATA113",
    title="all questions are asked in one form",
    severity="warning",
    methods=("sft", "reward", "dpo"),
)
def plain_among_templated(at: AtData) -> Iterator[Finding]:
    samples = _sample(at)
    chats = {key: rows for key, rows in samples.items() if is_chat(rows[0].example)}
    plain = {key: rows for key, rows in samples.items() if "text" not in rows[0].example and key not in chats}
    if not chats or not plain:
        raise NotApplicable("all rows are of one form")
    tails = {_tail(row) for rows in chats.values() for row in rows}
    first = next(iter(chats.values()))[0].source
    trained = {key for key in samples if key.startswith("data.train")}
    both_trained = bool(trained & chats.keys() and trained & plain.keys())
    for rows in plain.values():
        asked = [row for row in rows if str(row.example["prompt"]).rstrip().endswith(ENDS)]
        rendered = sum(_tail(row) in tails for row in rows)
        if len(rows) >= ENOUGH and len(asked) >= HALF * len(rows) and rendered < HALF * len(rows):
            source = rows[0].source
            yield Finding(
                message=f"{source.label} has prompts and answers of plain text, which no template renders, and "
                f"{first.label} has conversations, which the chat template does: what is asked looks different.",
                fix=f"Write the rows of {source.label} as messages, one of the user and one of the assistant.",
                where=Where(file=source.label, row=rows[0].where.row, key=source.key),
                severity="info" if both_trained else "warning",
            )


def _sample(at: AtData) -> Mapping[str, list[Row]]:
    """Some rows of each source of both splits that has any."""
    import numpy as np

    found: dict[str, list[Row]] = {}
    for rows in (at.train, at.eval) if at.eval is not None else (at.train,):
        for number, source in enumerate(rows.sources):
            own = np.flatnonzero(rows.origins[:, 0] == number)[:: rows.sides]
            if len(own) and source.key not in found:
                found[source.key] = [rows[int(own[place])] for place in spread(len(own), SAMPLE)]
    return found


def _tail(row: Row) -> tuple[int, ...]:
    """The tokens before the first trained one."""
    trained = (row.labels != IGNORED).nonzero()[0]
    first = int(trained[0]) if len(trained) else len(row.ids)
    return tuple(row.ids[max(0, first - TAIL) : first].tolist())


@plain_among_templated.fault
def one_source_is_plain(world: World) -> None:
    import json

    from ftrun.checks.testing import sft_chat

    more = "".join(json.dumps(row) + "\n" for row in world.rows)
    world.folder.mkdir(parents=True, exist_ok=True)
    (world.folder / "more.jsonl").write_text(more, encoding="utf-8")
    world.rows = sft_chat(world.folder).rows
    world.recipe["data"]["train"].append({"path": "more.jsonl"})


@plain_among_templated.fault
def the_evaluation_is_plain(world: World) -> None:
    from ftrun.checks.testing import sft_chat

    world.eval_rows, world.rows = world.rows, sft_chat(world.folder).rows
    world.recipe["data"]["eval"] = [{"path": "eval.jsonl"}]
    world.recipe["training"]["eval_strategy"] = "epoch"
