"""The trained tokens of a row are not its answer.

Symptom: the loss falls, yet the model repeats questions, speaks for the user, or starts answers in their
middle.
Cause: the boundary between prompt and answer is off. Prompt tokens are trained when the chat template renders
a prompt differently with and without its answer, or when its generation markers wrap more than the
assistant's turns. Answer tokens are masked when the markers wrap less.
Fix: let data.loss_on say what is to be trained, and use a chat template whose {% generation %} markers wrap
all that the assistant says and nothing else.
Prevention: look at rows with `ftrun preview` after changing a template or a format.
Source: trl#976, trl#3781, axolotl#1801, Megatron-Bridge#3927. One row in a hundred is told as an error. Not told is
the last word of a prompt of text that the answer continues without a space.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ftrun.checks.alignment import Reading, make_speller, read_labels
from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import clip, cut_rows, parts_of, sample
from ftrun.checks.finding import Finding, Severity
from ftrun.checks.rows import IGNORED, Row, SourceRows
from ftrun.checks.stages import AtData
from ftrun.schemas.formats import rename

if TYPE_CHECKING:
    from ftrun.checks.testing import World

MOST_ADDED = 2
"""Tokens that tokenizers put before a text."""


@check(
    "DATA008", title="labels are the answers: no prompt is trained, no answer masked", methods=("sft", "dpo")
)
def labels_unlike_answers(at: AtData) -> Iterator[Finding]:
    import numpy as np

    rows = at.train
    foreign = rows.each(lambda block: block.count((block.labels != IGNORED) & (block.labels != block.ids)))
    if foreign.any():
        yield _foreign(rows[int(np.flatnonzero(foreign)[0])], int(foreign.sum()))
        return
    chosen = sample(rows, ~cut_rows(rows))
    if not len(chosen):
        raise NotApplicable("every row is cut at training.max_length")
    speller = make_speller(
        at.tokenizer, np.unique(np.concatenate([rows[int(i)].ids for i in chosen])).tolist()
    )
    divided = {source.key for source in rows.sources if _has_no_prompt(at, source)}
    read: list[tuple[Row, Reading]] = []
    for index in chosen:
        row = rows[int(index)]
        parts = parts_of(row.example, row.source.loss_on)
        reading = read_labels(row.ids.tolist(), row.labels != IGNORED, parts, speller)
        if 0 < reading.leaked <= _last_word(row) and (row.source.key in divided or _runs_on(at, int(index))):
            reading = replace(reading, leaked=0)
        read.append((row, reading))
    yield from _judge(at, read)


def _has_no_prompt(at: AtData, source: SourceRows) -> bool:
    """Whether the prompt of its pairs is what both sides begin with: it may end within a word, whose tokens are
    others on each side and so are trained."""
    names = rename(dict.fromkeys(source.columns), at.source(source.key).columns)
    return source.sides > 1 and not {"prompt", "conversations"} & names.keys()


def _runs_on(at: AtData, index: int) -> bool:
    """Whether a prompt that is text goes on in its answer without a space, and its last word has other tokens there
    than by itself. No labels part the two: the word is trained from where its tokens differ, on both sides of a
    pair."""
    first = index - index % at.train.sides
    own = at.tokenizer(at.train[index].example["prompt"], add_special_tokens=False)["input_ids"]
    sides = (at.train[i].ids[: len(own) + MOST_ADDED].tolist() for i in range(first, first + at.train.sides))
    return not all(_holds(ids, own) for ids in sides)


def _holds(ids: list[int], own: list[int]) -> bool:
    return any(ids[added : added + len(own)] == own for added in range(MOST_ADDED + 1))


def _last_word(row: Row) -> int:
    """Characters of the last word of a prompt that is text."""
    prompt = row.example.get("prompt")
    return len(prompt.split()[-1]) if isinstance(prompt, str) and prompt.split() else 0


def _judge(at: AtData, read: list[tuple[Row, Reading]]) -> Iterator[Finding]:
    leaking = [pair for pair in read if pair[1].leaked]
    hiding = [pair for pair in read if pair[1].hidden]
    losing = [pair for pair in read if pair[1].lost]
    if leaking:
        share = _share(sum(one.leaked for _, one in leaking), sum(one.prompt for _, one in leaking))
        yield Finding(
            message=f"Prompt tokens are trained in {len(leaking)} of {len(read)} rows looked at, "
            f"{share} of the text that is no answer there: the labels hold more than the answers.",
            fix=_fix_leak(leaking[0][0]),
            where=leaking[0][0].where,
            evidence=_show(at, leaking),
            severity=_grade(leaking, read),
        )
    if hiding:
        share = _share(sum(one.hidden for _, one in hiding), sum(one.answer for _, one in hiding))
        yield Finding(
            message=f"Answer tokens are masked in {len(hiding)} of {len(read)} rows looked at, "
            f"{share} of the answers' text there: the labels hold less than the answers.",
            fix="Set data.loss_on to what the rows should teach, or model.chat_template to a template whose "
            "{% generation %} markers wrap all that the assistant says.",
            where=hiding[0][0].where,
            evidence=_show(at, hiding),
            severity=_grade(hiding, read),
        )
    # Templates may rewrite a few answers (shorten reasoning, say); most they must leave as they are.
    if len(losing) > 0.5 * len(read):
        yield Finding(
            message=f"In {len(losing)} of {len(read)} rows looked at, an answer is nowhere among the tokens.",
            fix="Set model.chat_template to a template that renders the assistant's content as it stands.",
            where=losing[0][0].where,
            evidence=_show(at, losing),
        )


def _fix_leak(row: Row) -> str:
    if row.source.loss_on == "completion" and not any(
        part.answer for part in parts_of(row.example, row.source.loss_on)
    ):
        return "End these conversations with a turn of the assistant, or set data.loss_on: assistant."
    return (
        "Set data.loss_on to what the rows should teach, or model.chat_template to a template whose "
        "{% generation %} markers wrap what the assistant says and nothing else."
    )


def _grade(faulty: list[tuple[Row, Reading]], read: list[tuple[Row, Reading]]) -> Severity:
    return "error" if len(faulty) >= 0.01 * len(read) else "warning"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if part >= 0.01 * whole else "under 1%"


def _show(at: AtData, faulty: list[tuple[Row, Reading]]) -> tuple[str, ...]:
    shown = []
    for row, _ in faulty[:3]:
        trained = at.tokenizer.decode(row.labels[row.labels != IGNORED].tolist())
        shown.append(f"{row.where} (loss on {row.source.loss_on}) trains: {clip(trained)}")
    return tuple(shown)


def _foreign(row: Row, count: int) -> Finding:
    position = int(((row.labels != IGNORED) & (row.labels != row.ids)).argmax())
    label, token = int(row.labels[position]), int(row.ids[position])
    return Finding(
        message=f"{count} labels are neither {IGNORED} nor the id of their own token; the first is {label} "
        f"at a token {token}. Models shift labels themselves: a label shifted before is shifted twice.",
        fix="Give every trained token its own id as label; report it if ftrun made these rows.",
        where=row.where,
    )


@labels_unlike_answers.fault
def template_marks_every_turn(world: World) -> None:
    from ftrun.checks.testing import sft_chat

    world.rows = sft_chat(world.folder).rows
    world.folder.mkdir(parents=True, exist_ok=True)
    (world.folder / "wrong.jinja").write_text(
        "{% for m in messages %}{% generation %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
        "{{ '<|im_end|>\n' }}{% endgeneration %}{% endfor %}"
    )
    world.recipe["model"]["chat_template"] = "wrong.jinja"


@labels_unlike_answers.fault
def boundary_is_two_tokens_early(world: World) -> None:
    import numpy as np

    def damage(at: AtData) -> AtData:
        labels = at.train.labels.copy()
        for start, end in zip(at.train.starts[:-1], at.train.starts[1:], strict=True):
            first = start + int(np.argmax(labels[start:end] != IGNORED))
            labels[first - 2 : first] = at.train.ids[first - 2 : first]
        return replace(at, train=replace(at.train, labels=labels))

    world.after(AtData, damage)


@labels_unlike_answers.fault
def first_answer_token_is_masked(world: World) -> None:
    import numpy as np

    def damage(at: AtData) -> AtData:
        labels = at.train.labels.copy()
        for start, end in zip(at.train.starts[:-1], at.train.starts[1:], strict=True):
            labels[start + int(np.argmax(labels[start:end] != IGNORED))] = IGNORED
        return replace(at, train=replace(at.train, labels=labels))

    world.after(AtData, damage)


@labels_unlike_answers.fault
def labels_are_shifted(world: World) -> None:
    import numpy as np

    world.after(AtData, lambda at: replace(at, train=replace(at.train, labels=np.roll(at.train.labels, -1))))


@labels_unlike_answers.fault
def last_turn_is_the_users(world: World) -> None:
    from ftrun.checks.testing import sft_chat

    world.rows = [{"messages": row["messages"][:-1]} for row in sft_chat(world.folder).rows]
    world.recipe["data"]["loss_on"] = "completion"
