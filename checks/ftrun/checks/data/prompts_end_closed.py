"""Prompts end with a token that generation stops on.

Symptom: answers are empty, begin with the header of a turn or go on as the user; the reward hardly rises.
Cause: prompts were rendered to text beforehand without what asks for an answer (`add_generation_prompt=True`), or an
end token was put behind each of them.
Fix: give the prompts as messages, or render them with the header of the assistant's turn.
Prevention: read three prompts with `ftrun preview`.
Source: told is half of the prompts of a source of plain text; white space behind the token does not count, nor a
prompt that is this token alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import clip, is_chat, spread
from ftrun.checks.finding import Finding
from ftrun.checks.rows import Row
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

HALF = 0.5
SAMPLE = 256
BEHIND = 4
"""Tokens of white space that may stand behind."""


@check("DATA112", title="prompts are open for an answer", severity="warning", methods=("ppo",))
def prompts_end_closed(at: AtData) -> Iterator[Finding]:
    looked = [
        row for row in map(at.train.__getitem__, spread(len(at.train), SAMPLE)) if not is_chat(row.example)
    ]
    if not looked:
        raise NotApplicable("no prompt is plain text")
    closed = [row for row in looked if _is_closed(at, row)]
    if len(closed) >= HALF * len(looked):
        first = closed[0]
        yield Finding(
            message=f"{len(closed)} of {len(looked)} prompts that were looked at end with a token that generation "
            "stops on: the model is asked behind the end of a turn.",
            fix="Give the prompts as messages, or render them with what asks for an answer, "
            "`add_generation_prompt=True`.",
            where=first.where,
            evidence=(f"{first.where}: {clip(str(first.example['prompt'])[-80:])}",),
        )


def _is_closed(at: AtData, row: Row) -> bool:
    ids = row.ids.tolist()
    for place in range(len(ids) - 1, max(0, len(ids) - 1 - BEHIND), -1):
        if at.tokenizer.decode([ids[place]]).strip():
            return ids[place] in at.stop_ids
    return False


@prompts_end_closed.fault
def rendered_without_the_assistants_header(world: World) -> None:
    from ftrun.checks.testing import ppo_full

    healthy = ppo_full(world.folder)
    world.recipe, world.rows = healthy.recipe, healthy.rows
    for row in world.rows:
        row["prompt"] = f"<|im_start|>user\n{row['prompt'].strip()}<|im_end|>\n"
