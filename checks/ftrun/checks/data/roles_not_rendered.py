"""A role of the conversations is unknown to the chat template, or what it says is dropped.

Symptom: the persona of the system message is ignored, or the model answers under a strange name.
Cause: the template skips a role, or the rows use role names of another format (`human`, `gpt`), which the
template copies without knowing them.
Fix: rename the roles to system, user, assistant and tool, or use a chat template that renders them.
Source: a role counts as dropped when over half of its messages looked at are not in their rows: trl#2083,
axolotl#752, LLaMA-Factory's repair of Llama's system prompt (12 August 2024).
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import cut_rows, is_chat, messages_of, spread, squeeze, texts_of
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

KNOWN = frozenset({"system", "developer", "user", "assistant", "tool"})
ENOUGH = 0.5


@check(
    "DATA017",
    title="the chat template knows every role and renders what it says",
    methods=("sft", "reward", "dpo"),
)
def roles_not_rendered(at: AtData) -> Iterator[Finding]:
    rows_of = _rows_by_role(at)
    if not rows_of:
        raise NotApplicable("no row is a conversation that is rendered whole")
    template = str(at.tokenizer.chat_template)
    unknown = sorted(role for role in rows_of if role not in KNOWN and role not in template)
    if unknown:
        first = at.train[rows_of[unknown[0]][0]]
        yield Finding(
            message=f"{len(unknown)} roles of the conversations are not named in the chat template: "
            f"{', '.join(unknown)} ({len(rows_of[unknown[0]])} rows have {unknown[0]}).",
            fix="Rename the roles to system, user, assistant and tool.",
            where=first.where,
        )
    for role in sorted(rows_of.keys() - {"assistant"}):
        yield from _judge(at, role, rows_of[role])


def _rows_by_role(at: AtData) -> dict[str, array[int]]:
    """For each role, the rows of uncut conversations in which it speaks."""
    import numpy as np

    rows = at.train
    found: dict[str, array[int]] = {}
    if not any(is_chat(one) for source in rows.sources for one in source.examples[:1]):
        return {}
    for first, block in rows.blocks():
        for index in np.flatnonzero(~cut_rows(block)).tolist():
            source, example = block.origins[index].tolist()
            for role in {message["role"] for message in messages_of(rows.sources[source].examples[example])}:
                found.setdefault(role, array("q")).append(first + index)
    return found


def _judge(at: AtData, role: str, indexes: array[int]) -> Iterator[Finding]:
    chosen = [indexes[int(i)] for i in spread(len(indexes), 64)]
    judged, missing = 0, []
    for index in chosen:
        row = at.train[index]
        said = [text for one in messages_of(row.example) if one["role"] == role for text in texts_of(one)]
        if not any(squeeze(text) for text in said):
            continue
        judged += 1
        shown = squeeze(at.tokenizer.decode(row.ids.tolist()))
        if not all(_is_in(text, shown, at) for text in said):
            missing.append(row)
    if judged and len(missing) > ENOUGH * judged:
        yield Finding(
            message=f"What the role {role} says is not in the tokens of {len(missing)} of {judged} rows "
            "looked at: the chat template drops it.",
            fix=f"Set model.chat_template to a template that renders the role {role}, or move its text into "
            "the first message of the user.",
            where=at.where("model.chat_template"),
            evidence=tuple(str(row.where) for row in missing[:3]),
        )


def _is_in(text: str, shown: str, at: AtData) -> bool:
    """Whether the row shows the text: as it stands, as JSON, or as the tokenizer spells it."""
    if squeeze(text) in shown or squeeze(json.dumps(text)[1:-1]) in shown:
        return True
    ids = at.tokenizer(text, add_special_tokens=False)["input_ids"]
    return squeeze(at.tokenizer.decode(ids)) in shown


@roles_not_rendered.fault
def template_skips_the_system_message(world: World) -> None:
    from ftrun.checks.testing import sft_chat

    world.rows = sft_chat(world.folder).rows
    world.folder.mkdir(parents=True, exist_ok=True)
    (world.folder / "wrong.jinja").write_text(
        "{% for m in messages if m.role != 'system' %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}"
        "{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    )
    world.recipe["model"]["chat_template"] = "wrong.jinja"


@roles_not_rendered.fault
def roles_are_human_and_gpt(world: World) -> None:
    world.rows = [
        {
            "messages": [
                {"role": "human", "content": row["prompt"]},
                {"role": "gpt", "content": row["completion"]},
            ]
        }
        for row in world.rows
    ]
    world.recipe["data"]["loss_on"] = "completion"
    world.recipe["model"]["chat_template"] = "wrong.jinja"
    world.folder.mkdir(parents=True, exist_ok=True)
    (world.folder / "wrong.jinja").write_text(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
