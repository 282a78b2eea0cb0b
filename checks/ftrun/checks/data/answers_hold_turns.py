"""Answers hold what others say: the next question, or what a tool returned.

Symptom: the model asks itself the next question and answers it, or makes up what a search returned.
Cause: a generator wrote on after its answer (`User: … Assistant: …`); a transcript was stored as one answer; or the
observations of an agent are part of the text that is trained.
Fix: cut the answers before the first of these lines, or give dialogues as `messages`, one for each turn, with tools in
turns of their own.
Prevention: stop a generator at the label of the next turn.
Source: told are lines in an answer that begin with the label of someone who asks and, behind it, one of someone who
answers; or `Observation:` behind `Action:`. Not where the answer begins with a label itself or the prompt speaks of a
dialogue: to write one is a task. 2 % of the answers; of 10,389 answers of Alpaca, GSM8K and judged pairs one does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.exchanges import Exchange, tell_answers
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

SHARE = 0.02
ASKS = r"(?:User|Human|Customer|Question|Q|Instruction|Student|Input)"
ANSWERS = r"(?:Assistant|AI|Bot|Chatbot|Agent|Answer|A|Response|Output|Model|GPT|ChatGPT)"
LABEL = r"^[ \t]*(?:#+[ \t]*|\*\*)?{}(?:\*\*)?[ \t]*:"
TURNS = re.compile(rf"{LABEL.format(ASKS)}.*?{LABEL.format(ANSWERS)}", re.MULTILINE | re.DOTALL)
TOOL = re.compile(
    r"^Action(?: Input)?:.*?^(?:Observation|Tool (?:result|output|response)):", re.MULTILINE | re.DOTALL
)
FIRST = re.compile(rf"(?:{LABEL.format(ASKS)}|{LABEL.format(ANSWERS)})")
TASK = re.compile(
    r"dialog|conversation|chat|script|transcript|interview|quiz|question|q ?& ?a|faq|exam|flash ?card|role.?play",
    re.IGNORECASE,
)


@check(
    "DATA062", title="answers hold no turns of others", severity="warning", methods=("sft", "reward", "dpo")
)
def answers_hold_turns(at: AtData) -> Iterator[Finding]:
    yield from tell_answers(
        at.sources,
        _holds_turns,
        share=SHARE,
        what="hold lines with the labels of other speakers, such as `User:` or `Observation:`, which are trained",
        fix="Cut the answers before these lines, or give each turn as one of `messages`.",
    )


def _holds_turns(exchange: Exchange) -> bool:
    text = exchange.answered.strip()
    if TOOL.search(text):
        return True
    return bool(TURNS.search(text)) and not FIRST.match(text) and not TASK.search(exchange.asked)


@answers_hold_turns.fault
def a_generator_writes_on(world: World) -> None:
    for row in world.rows[::3]:
        row["prompt"] = row["prompt"].replace("What", "Tell me what")
        row["completion"] += "\nUser: And the door?\nAssistant: It is grey."


@answers_hold_turns.fault
def observations_are_answers(world: World) -> None:
    for row in world.rows:
        row["completion"] = f"Action: look\nObservation: {row['completion']}\nFinal answer: see there."
