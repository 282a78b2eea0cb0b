"""The arguments of calls are encoded as JSON twice.

Symptom: the model calls tools with one text full of backslashes, `"arguments": "{\\"room\\": …`, which is no mapping.
Cause: the rows hold the arguments as JSON text, as OpenAI's API gives them, and the chat template encodes what it is
given.
Fix: write the arguments as objects where the rows are made.
Prevention: look at a row with `ftrun preview`.
Source: arguments that are the text of an object stand in the rendered row with their quotes escaped. Told where it is
so in over half of the rows looked at that have such arguments. oumi#2599.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import clip, cut_rows, is_chat, messages_of, sample, squeeze
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

LOOKED_AT = 64
HALF = 0.5


@check("DATA088", title="the arguments of calls are encoded once", severity="warning", methods=("sft",))
def arguments_encoded_twice(at: AtData) -> Iterator[Finding]:
    judged, twice = 0, []
    for index in sample(at.train, ~cut_rows(at.train), LOOKED_AT):
        row = at.train[index]
        texts = _texts(row.example) if is_chat(row.example) else []
        if not texts:
            continue
        judged += 1
        shown = squeeze(at.tokenizer.decode(row.ids.tolist()))
        if any(squeeze(json.dumps(text, ensure_ascii=False)) in shown for text in texts):
            twice.append(row)
    if not judged:
        raise NotApplicable("no call has arguments that are JSON text")
    if len(twice) > HALF * judged:
        example = _texts(twice[0].example)[0]
        yield Finding(
            message=f"In {len(twice)} of {judged} rows looked at the chat template encodes arguments as JSON that are "
            "JSON text already.",
            fix="Write the arguments of calls as objects in the rows.",
            where=twice[0].where,
            evidence=(f"in the row: {clip(example, 60)}", f"trained: {clip(json.dumps(example), 60)}"),
        )


def _texts(example: Mapping[str, Any]) -> list[str]:
    """The arguments of the calls that are the text of an object with a key."""
    calls = [call for one in messages_of(example) for call in one.get("tool_calls") or ()]
    inner = [call.get("function", call) for call in calls if isinstance(call, Mapping)]
    given = [one.get("arguments") for one in inner if isinstance(one, Mapping)]
    return [text for text in given if isinstance(text, str) and text.lstrip().startswith("{") and '"' in text]


@arguments_encoded_twice.fault
def a_template_encodes_text(world: World) -> None:
    from ftrun.checks.testing import sft_chat

    world.rows = sft_chat(world.folder).rows
    for row in world.rows:
        call = {"type": "function", "function": {"name": "look", "arguments": json.dumps({"room": "3"})}}
        row["messages"][-1:-1] = [
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "It is red."},
        ]
    world.recipe["model"]["chat_template"] = "wrong.jinja"
    world.folder.mkdir(parents=True, exist_ok=True)
    (world.folder / "wrong.jinja").write_text(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}"
        "{{ m.content }}{% for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}"
        "{{ '<|im_end|>' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        encoding="utf-8",
    )
