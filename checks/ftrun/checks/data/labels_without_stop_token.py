"""The answers do not end with a token that generation stops on.

Symptom: the tuned model answers well and then never stops, up to the length limit.
Cause: the chat template leaves the end of a turn out or outside its generation markers, the end is masked
because padding shares its id, or the template ends turns with a token that the tokenizer and the
generation config do not count as an end.
Fix: let every answer end, inside what is trained, with a token that generation stops on; where the template
ends turns with a token of its own, set training.eos_token to it.
Prevention: look at the last trained token of a row with `ftrun preview`.
Source: 99 of 100 answers must end so: transformers#23530, trl#976, trl#3200, open-r1#603, trl#3299.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import clip, cut_rows, is_chat, messages_of, sample
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.rows import IGNORED, Rows
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ftrun.checks.testing import World

ENOUGH = 0.99


@check(
    "DATA003",
    title="every answer ends with a token that generation stops on",
    methods=("sft", "reward", "dpo"),
)
def labels_without_stop_token(at: AtData) -> Iterator[Finding]:
    import numpy as np

    rows = at.train
    if any(((block.labels != IGNORED) & (block.labels != block.ids)).any() for _, block in rows.blocks()):
        raise NotApplicable("labels are not those of their tokens")
    last, ends = rows.each(lambda block: _last_trained(at, block)).T
    judged = (last >= 0) & _has_its_end(at)
    if not judged.any():
        raise NotApplicable("no row holds the end of an answer: all are cut at training.max_length")
    bad = np.flatnonzero(judged & ~np.isin(ends, list(at.stop_ids)))
    total = int(judged.sum())
    if len(bad) > (1 - ENOUGH) * total:
        yield _finding(at, last, ends, bad, total)
        return
    yield from _judge_earlier_turns(at, judged)


def _last_trained(at: AtData, rows: Rows) -> NDArray[np.int64]:
    """Place in its row of the last trained token of each row that is not white space, −1 for none, and its id: shape
    (rows, 2)."""
    import numpy as np

    trained = np.flatnonzero(rows.labels != IGNORED)
    if not len(trained):
        return np.full((len(rows), 2), -1, np.int64)
    nth = np.searchsorted(trained, rows.starts[1:]) - 1
    while True:
        there = (nth >= 0) & (trained[np.maximum(nth, 0)] >= rows.starts[:-1])
        blank = _blank_ids(at, np.unique(rows.ids[trained[nth[there]]]))
        step = there & np.isin(rows.ids[trained[np.maximum(nth, 0)]], blank)
        if not step.any():
            place = trained[np.maximum(nth, 0)]
            ends = rows.ids[place].astype(np.int64)
            return np.stack((np.where(there, place - rows.starts[:-1], -1), ends), 1)
        nth = nth - step


def _blank_ids(at: AtData, ids: NDArray[np.int32]) -> list[int]:
    """Those of `ids` that are white space and that generation does not stop on."""
    return [id for id in ids.tolist() if id not in at.stop_ids and not at.tokenizer.decode([id]).strip()]


def _has_its_end(at: AtData) -> NDArray[np.bool_]:
    """Which rows are to end with an answer whose end `max_length` has not cut off."""
    import numpy as np

    rows = at.train
    keeps_end = at.recipe.training.get("truncation_mode") == "keep_end"
    whole = np.ones(len(rows), np.bool_) if keeps_end else ~cut_rows(rows)
    for index, source in enumerate(rows.sources):
        if source.loss_on == "all" and any(is_chat(one) for one in source.examples[:1]):
            # A conversation may end with a question; trained on everything, it ends as questions do.
            ends = np.array(
                [messages_of(one)[-1]["role"] == "assistant" for one in source.examples], np.bool_
            )
            own = rows.origins[:, 0] == index
            whole[own] &= ends[rows.origins[own, 1]]
    return whole


def _finding(
    at: AtData, last: NDArray[np.int64], ends: NDArray[np.int64], bad: NDArray[np.int64], total: int
) -> Finding:
    usual, count = Counter(ends[bad].tolist()).most_common(1)[0]
    example = int(bad[ends[bad] == usual][0])
    row = at.train[example]
    after = int(last[example]) + 1
    masked = after < len(row.ids) and int(row.ids[after]) in at.stop_ids
    stops = ", ".join(_name(at, id) for id in sorted(at.stop_ids)) or "no token at all"
    message = (
        f"{len(bad)} of {total} answers do not end with a token that generation stops on. Most often "
        f"({count}) the last trained token is {_name(at, usual)}; generation stops on {stops}."
    )
    key, patch = "model.chat_template", None
    if masked:
        message += f" {_name(at, int(row.ids[after]))} follows there, but is masked."
        fix = (
            "Put the token that ends a turn inside the {% generation %} markers of model.chat_template."
            if is_chat(row.example)
            else "Give the token that ends an answer a label: mask padding by its place, not by its id."
        )
    elif usual in at.tokenizer.added_tokens_decoder:
        token = at.tokenizer.convert_ids_to_tokens(usual)
        key, patch = "training.eos_token", Patch("training.eos_token", token)
        fix = f'Set training.eos_token to "{token}", so that generation stops where the answers end.'
    else:
        fix = "Let model.chat_template end each turn of the assistant with a token that generation stops on."
    trained = at.tokenizer.decode(row.labels[row.labels != IGNORED][-12:].tolist())
    return Finding(
        message=message,
        fix=fix,
        where=at.where(key),
        evidence=(f"{row.where} trains, at its end: {clip(trained)}",),
        patch=patch,
        # A reward model writes nothing that would not stop; it is read at another token than in answers that do.
        severity="warning" if at.recipe.method == "reward" else "error",
    )


def _name(at: AtData, id: int) -> str:
    return f"{at.tokenizer.decode([id])!r} (id {id})"


def _judge_earlier_turns(at: AtData, judged: NDArray[np.bool_]) -> Iterator[Finding]:
    """The ends of the assistant's earlier turns, in rows where each turn is one stretch of trained tokens."""
    rows = at.train
    turns = 0
    endings: Counter[int] = Counter()
    for index in sample(rows, judged & ~cut_rows(rows) & _trains_turns(rows)):
        row = rows[int(index)]
        ends = _ends_of_stretches(row.labels != IGNORED)
        if len(ends) != sum(message["role"] == "assistant" for message in messages_of(row.example)):
            continue
        turns += len(ends) - 1
        endings.update(_ending(at, row.labels[: end + 1].tolist()) for end in ends[:-1].tolist())
    unstopped = Counter({id: count for id, count in endings.items() if id not in at.stop_ids})
    if not unstopped or unstopped.total() <= (1 - ENOUGH) * turns:
        return
    usual = unstopped.most_common(1)[0][0]
    # Templates such as gpt-oss's end earlier turns with a token of their own, on purpose.
    on_purpose = usual in at.tokenizer.added_tokens_decoder
    yield Finding(
        message=f"{unstopped.total()} of {turns} earlier turns of the assistant end with a token that "
        f"generation does not stop on, most often {_name(at, usual)}, though last turns do.",
        fix="Let model.chat_template end every turn of the assistant as it ends the last, or set "
        "data.loss_on: completion to train last turns alone.",
        where=at.where("model.chat_template"),
        severity="info" if on_purpose else "warning",
    )


def _trains_turns(rows: Rows) -> NDArray[np.bool_]:
    import numpy as np

    by_source = np.array([source.loss_on == "assistant" for source in rows.sources], np.bool_)
    trains: NDArray[np.bool_] = by_source[rows.origins[:, 0]]
    return trains


def _ends_of_stretches(trained: NDArray[np.bool_]) -> NDArray[np.int64]:
    import numpy as np

    return np.flatnonzero(trained & ~np.append(trained[1:], False))


def _ending(at: AtData, labels: list[int]) -> int:
    """The last of `labels` that is not white space."""
    place = len(labels) - 1
    while place > 0 and labels[place - 1] != IGNORED and labels[place] not in at.stop_ids:
        if at.tokenizer.decode([labels[place]]).strip():
            break
        place -= 1
    return labels[place]


@labels_without_stop_token.fault
def template_marks_too_little(world: World) -> None:
    from ftrun.checks.testing import sft_chat

    world.rows = sft_chat(world.folder).rows
    world.folder.mkdir(parents=True, exist_ok=True)
    (world.folder / "wrong.jinja").write_text(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    )
    world.recipe["model"]["chat_template"] = "wrong.jinja"


@labels_without_stop_token.fault
def generation_stops_on_another_token(world: World) -> None:
    from ftrun.checks.testing import sft_chat

    world.rows = sft_chat(world.folder).rows
    world.after(AtData, lambda at: replace(at, stop_ids=frozenset({at.tokenizer.bos_token_id})))


@labels_without_stop_token.fault
def end_is_masked_as_padding_is(world: World) -> None:
    import numpy as np

    def damage(at: AtData) -> AtData:
        labels = np.where(at.train.ids == at.tokenizer.eos_token_id, IGNORED, at.train.labels)
        return replace(at, train=replace(at.train, labels=labels))

    world.after(AtData, damage)
