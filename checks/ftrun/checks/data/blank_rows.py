"""Rows have a blank prompt or a blank answer.

Symptom: the model answers with nothing, or with something to nothing.
Cause: a failed export, parse or generation left fields empty.
Fix: remove these rows, or fill them.
Prevention: count empty fields where the data are made.
Source: a share over 1 % is an error, any other a warning: axolotl's FAQ on empty rows, trl#2093.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.examples import BLANK, is_chat, messages_of, texts_of
from ftrun.checks.finding import Finding
from ftrun.checks.rows import SourceRows
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

TOO_MANY = 0.01
NEARLY_ALL = 0.9
ENOUGH = 16
SPEAKING = ("tool_calls", "reasoning_content", "reasoning", "thinking")
"""Keys of a message that says something without content."""


@check("DATA006", title="no prompt and no answer is blank", severity="warning")
def blank_rows(at: AtData) -> Iterator[Finding]:
    special = tuple(token for token in at.tokenizer.all_special_tokens if token)
    for source in at.sources:
        found = [
            (i, part) for i, one in enumerate(source.examples) if (part := _blank_part(one, source, special))
        ]
        turned = [one for one in found if _is_turned(source.examples[one[0]])]
        if len(turned) >= max(ENOUGH, NEARLY_ALL * len(source.examples)):  # DATA058 tells that
            known = set(turned)
            found = [one for one in found if one not in known]
        if not found:
            continue
        answers = sum(part == "answer" for _, part in found)
        what = "sides of pairs" if source.sides > 1 else "rows"
        yield Finding(
            message=f"{len(found)} of {len(source.examples)} {what} of {source.label} are blank: "
            f"{answers} have no answer, {len(found) - answers} no prompt.",
            fix=f"Fill these rows of {source.label}, or remove them.",
            where=Where(file=source.label, row=source.numbers[found[0][0]], key=source.key),
            evidence=tuple(f"row {source.numbers[i]}: blank {part}" for i, part in found[:5]),
            severity="error" if len(found) > TOO_MANY * len(source.examples) else "warning",
        )


def _is_turned(example: Mapping[str, Any]) -> bool:
    """Whether the assistant begins, and the user has the last word: the roles may be exchanged."""
    roles = [message["role"] for message in messages_of(example)]
    return len(roles) > 1 and roles[0] == "assistant" and roles[-1] == "user"


def _blank_part(example: Mapping[str, Any], source: SourceRows, special: tuple[str, ...]) -> str | None:
    """`answer` or `prompt`, whichever is blank first; None where neither is."""
    if "text" in example:
        return "answer" if _is_blank(example["text"], special) else None
    if not is_chat(example):
        if "completion" in example and _is_blank(example["completion"], special):
            return "answer"
        return "prompt" if _is_blank(example["prompt"], special) else None
    messages = messages_of(example)
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not answers:  # a prompt that is to be answered, or a conversation that trains nothing
        asked = source.loss_on == "nothing"
        return "prompt" if asked and not any(_says_something(one, special) for one in messages) else None
    judged = answers if source.loss_on == "assistant" else answers[-1:]
    if not all(_says_something(messages[i], special) for i in judged):
        return "answer"
    before = messages[: answers[-1]]
    return None if any(_says_something(message, special) for message in before) else "prompt"


def _says_something(message: Mapping[str, Any], special: tuple[str, ...]) -> bool:
    content = message.get("content")
    if isinstance(content, str):
        said = not _is_blank(content, special)
    else:
        # Of a list, pictures and sounds count as they are.
        parts = (part for part in content or () if isinstance(part, Mapping))
        said = any(part.get("type", "text") != "text" for part in parts)
        said = said or not all(_is_blank(text, special) for text in texts_of(message))
    return said or any(message.get(key) for key in SPEAKING)


def _is_blank(text: str, special: tuple[str, ...]) -> bool:
    rest = text.strip()
    if rest and rest.startswith(special):
        for token in special:
            rest = rest.replace(token, "")
        rest = rest.strip()
    return not rest.strip(BLANK)


@blank_rows.fault
def every_third_answer_is_blank(world: World) -> None:
    for row in world.rows[::3]:
        row["completion"] = " \n"


@blank_rows.fault
def an_answer_is_an_end_token_alone(world: World) -> None:
    world.rows[5]["completion"] = "<|im_end|>"


@blank_rows.fault
def a_prompt_is_blank(world: World) -> None:
    world.rows[5]["prompt"] = ""
