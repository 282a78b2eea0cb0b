"""Conversations: systems, turns, roles, reasoning, and what of them is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.healthy.worlds import LORA, chats, healthy, hold_out, questions, sft

from ftrun.checks.testing import World

SYSTEM = "You know every room of the house, and you answer in one sentence."


def _say(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


@healthy
def chat(folder: Path, seed: int) -> World:
    return hold_out(sft(folder, seed, chats(seed)))


@healthy
def chat_with_system(folder: Path, seed: int) -> World:
    return hold_out(sft(folder, seed, chats(seed, system=SYSTEM, turns=3)))


@healthy
def chat_with_an_empty_system(folder: Path, seed: int) -> World:
    return sft(folder, seed, chats(seed, system=""))


@healthy
def chat_under_lora(folder: Path, seed: int) -> World:
    return sft(folder, seed, chats(seed, system=SYSTEM), lora=LORA)


@healthy
def last_turn_alone(folder: Path, seed: int) -> World:
    """Conversations of several turns of which the last answer is trained."""
    world = sft(folder, seed, chats(seed, system=SYSTEM, turns=3))
    world.recipe["data"]["loss_on"] = "completion"
    return world


@healthy
def whole_chat_trained(folder: Path, seed: int) -> World:
    world = sft(folder, seed, chats(seed, turns=2))
    world.recipe["data"]["loss_on"] = "all"
    return world


@healthy
def chats_of_all_lengths(folder: Path, seed: int) -> World:
    """One turn in some, eight in others."""
    rows = [row for turns in (1, 2, 8) for row in chats(seed + turns, 12, turns=turns)]
    return sft(folder, seed, rows, max_length=1024)


@healthy
def messages_as_prompt_and_completion(folder: Path, seed: int) -> World:
    rows = [
        {"prompt": [_say("system", SYSTEM), _say("user", asked)], "completion": [_say("assistant", answer)]}
        for asked, answer in questions(seed)
    ]
    return hold_out(sft(folder, seed, rows))


@healthy
def system_alone_before_the_answer(folder: Path, seed: int) -> World:
    """The task stands in the system message, and nobody asks."""
    rows = [
        {"prompt": [_say("system", f"Answer: {asked}")], "completion": [_say("assistant", answer)]}
        for asked, answer in questions(seed)
    ]
    return sft(folder, seed, rows)


@healthy
def assistant_greets_first(folder: Path, seed: int) -> World:
    """A shop's assistant speaks before anybody asks."""
    rows = chats(seed)
    for row in rows:
        row["messages"].insert(0, _say("assistant", "Welcome to the house. What can I do for you?"))
    return sft(folder, seed, rows)


@healthy
def two_questions_in_a_row(folder: Path, seed: int) -> World:
    """The user adds a second message before the answer."""
    rows = chats(seed)
    for row in rows[::2]:
        row["messages"].insert(1, _say("user", "Please be quick."))
    return sft(folder, seed, rows)


@healthy
def content_in_parts(folder: Path, seed: int) -> World:
    """Contents as lists of parts, for a template that reads them."""
    world = sft(folder, seed, chats(seed, turns=2))
    for row in world.rows:
        for message in row["messages"]:
            message["content"] = [{"type": "text", "text": message["content"]}]
    world.folder.mkdir(parents=True, exist_ok=True)
    (world.folder / "parts.jinja").write_text(
        "{%- for message in messages -%}{{- '<|im_start|>' + message.role + '\\n' -}}"
        "{%- if message.role == 'assistant' -%}{%- generation -%}"
        "{%- for part in message.content -%}{{- part.text -}}{%- endfor -%}{{- '<|im_end|>' -}}"
        "{%- endgeneration -%}{%- else -%}"
        "{%- for part in message.content -%}{{- part.text -}}{%- endfor -%}{{- '<|im_end|>' -}}"
        "{%- endif -%}{{- '\\n' -}}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}",
        encoding="utf-8",
    )
    world.recipe["model"]["chat_template"] = "parts.jinja"
    return world


@healthy
def same_system_same_question(folder: Path, seed: int) -> World:
    """A persona: few questions, many ways to answer."""
    rows = [
        {
            "messages": [
                _say("system", SYSTEM),
                _say("user", "Who are you?"),
                _say("assistant", f"I am Ada. {asked}"),
            ]
        }
        for asked, _ in questions(seed, 48)
    ]
    return sft(folder, seed, rows)


@healthy
def sharegpt_rows(folder: Path, seed: int) -> World:
    rows = [
        {
            "conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}],
            "system": SYSTEM if i % 2 else "",
        }
        for i, (asked, answer) in enumerate(questions(seed))
    ]
    return sft(folder, seed, rows)


@healthy
def alpaca_with_history(folder: Path, seed: int) -> World:
    said = list(questions(seed, 33))
    rows = [
        {
            "instruction": said[i + 1][0],
            "input": "",
            "output": said[i + 1][1],
            "history": [list(said[i])] if i % 2 else [],
        }
        for i in range(32)
    ]
    return sft(folder, seed, rows)


@healthy
def short_turns(folder: Path, seed: int) -> World:
    """Answers such as `Ok.`, which stand in many rows."""
    rows = chats(seed, turns=2)
    for row in rows:
        row["messages"][1]["content"] = "Ok."
    return sft(folder, seed, rows)


@healthy
def answers_that_repeat_the_question(folder: Path, seed: int) -> World:
    """The same words are trained in one place and not in another."""
    rows = [
        {"messages": [_say("user", asked), _say("assistant", f"You asked: {asked} {answer}")]}
        for asked, answer in questions(seed)
    ]
    return sft(folder, seed, rows)


@healthy
def white_space_around_contents(folder: Path, seed: int) -> World:
    rows = chats(seed, turns=2)
    for row in rows:
        for message in row["messages"]:
            message["content"] = f"\n  {message['content']}  \n\n"
    return sft(folder, seed, rows)


@healthy
def some_rows_end_with_a_question(folder: Path, seed: int) -> World:
    """Logs of a chat, trained on all that the assistant says."""
    rows = chats(seed, 40, turns=2)
    for row in rows[::4]:
        row["messages"].append(_say("user", "Thank you, good night."))
    return sft(folder, seed, rows)
