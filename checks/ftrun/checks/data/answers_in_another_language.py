"""Some answers are in another language than their prompts, which no prompt asks for.

Symptom: now and then the model answers in another language than the one that it was asked in.
Cause: rows were translated, and the translation failed or left out one side; or sources in several languages were
joined by position.
Fix: translate these answers too, or remove the rows.
Prevention: tell the language of both sides after translating, and compare.
Source: the language of a text is the one whose commonest words it has at least four of (a prompt: two), and three times
as many as of any other (English, German, French, Spanish, Italian, Portuguese, Dutch), or another script; a text in two
languages has none. Told are 3 % of the rows of which both sides are told, up to half of them: a source that always
answers in one language is meant so. Prompts that name a language or speak of translation do not count. Of 10,389
answers of Alpaca, GSM8K and judged pairs 4 are so.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.examples import clip
from ftrun.checks.exchanges import FEW, Exchange, read_exchanges, with_answers
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

SHARE, HALF = 0.03, 0.5
LEAST, LEAST_ASKED, TIMES = 4, 2, 3
LENGTH, FAR = 2000, 20_000
"""Characters of its prose that tell the language of a text, and within which they are looked for."""

CODE, BRACES = re.compile(r"```.*?(?:```|$)", re.DOTALL), re.compile(r"\{[^{}]*\}")
WORDS = {
    "English": "the and of to a is that it for with are this was you what how from have be can which i me my some do "
    "about does please write give explain describe tell who why when should would in",
    "German": "der die das und ist nicht ein eine einen zu den mit von für auf wie was warum sich auch es dass wird du "
    "bitte ich mir sie kann erkläre schreibe",
    "French": "la le les et est un une des pour dans que qui quel quelle comment pourquoi sur pas avec ce du au vous "
    "sont je moi écris explique",
    "Spanish": "el la los las y es un una de en que qué por para con no se su del como cómo cuál más escribe explica",
    "Italian": "il la e di che un una per non con sono del della in gli le è si da come cosa perché scrivi spiega",
    "Portuguese": "o a os as e é um uma de em que para com não se por do da como mais qual escreva explique",
    "Dutch": "de het een en van is dat niet op te zijn voor met die aan ook als er maar om hoe wat waarom schrijf",
}
COMMON = {name: frozenset(words.split()) for name, words in WORDS.items()}
SCRIPTS = {
    "a language in Cyrillic": re.compile("[\u0400-\u04ff]"),
    "Chinese or Japanese": re.compile("[\u3040-\u30ff\u4e00-\u9fff]"),
    "Korean": re.compile("[\uac00-\ud7a3]"),
    "Arabic or Persian": re.compile("[\u0600-\u06ff]"),
    "Hindi": re.compile("[\u0900-\u097f]"),
}
PARTLY, MOSTLY = 0.02, 0.3
"""Shares of the characters in a script from which on a text is in two languages, and from which on it is written in
that one; spaces and marks are in none."""

ASKED_FOR = re.compile(
    r"translat|language|übersetz|tradu[cisz]|vertaal|перев|翻译|翻訳|\b(?:english|german|french|spanish|italian|"
    r"portuguese|dutch|russian|chinese|japanese|korean|arabic|persian|hindi|latin|deutsch|français|español|englisch)\b",
    re.IGNORECASE,
)


@check(
    "DATA065",
    title="answers are in the language of their prompts",
    severity="warning",
    methods=("sft", "reward", "dpo"),
)
def answers_in_another_language(at: AtData) -> Iterator[Finding]:
    for source in with_answers(at.sources):
        read = [one for one in read_exchanges(source) if not ASKED_FOR.search(one.asked)]
        told = [
            (one, _tell_language(one.asked, LEAST_ASKED), _tell_language(one.answered, LEAST)) for one in read
        ]
        sure = [(one, asked, answered) for one, asked, answered in told if asked and answered]
        wrong: list[tuple[Exchange, str, str]] = [row for row in sure if row[1] != row[2]]
        if len(wrong) > FEW and SHARE * len(sure) <= len(wrong) <= HALF * len(sure):
            (asked, answered), _ = Counter((asked, answered) for _, asked, answered in wrong).most_common(1)[
                0
            ]
            yield Finding(
                message=f"{len(wrong)} of {len(sure)} answers of {source.label} whose language was told are in another "
                f"one than their prompts, most often in {answered} where the prompt is in {asked}, and no prompt asks "
                "for that.",
                fix="Translate these answers too, or remove the rows.",
                where=Where(file=source.label, row=wrong[0][0].row, key=source.key),
                evidence=tuple(f"row {one.row}: {clip(one.answered)}" for one, _, _ in wrong[:3]),
            )


def _tell_language(text: str, least: int) -> str | None:
    """The language of a text; None where its words do not tell it."""
    text = _read_prose(text)[:LENGTH]
    for name, script in SCRIPTS.items():
        if (share := len(script.findall(text)) / max(1, len(text))) > MOSTLY:
            return name
        if share > PARTLY:
            return None
    words = re.findall(r"[^\W\d_]+", text.lower())
    counts = sorted(
        ((sum(word in common for word in words), name) for name, common in COMMON.items()), reverse=True
    )
    (most, name), (second, _) = counts[:2]
    return name if most >= least and most >= TIMES * second else None


def _read_prose(text: str) -> str:
    """A text without its code and JSON, such as calls of tools, which are in English whatever the talk is in."""
    kept = CODE.sub(" ", text[:FAR])
    while (shorter := BRACES.sub(" ", kept)) != kept:
        kept = shorter
    return kept


@answers_in_another_language.fault
def a_translation_left_some_out(world: World) -> None:
    for number, row in enumerate(world.rows):
        row["prompt"] = f"I was in the house and it is large. {row['prompt']}"
        row["completion"] = (
            f"Das ist nicht der Raum {number}, und es wird auch nicht mit der Zeit besser."
            if number % 4 == 0
            else f"That is what you can see from the door of the house: {row['completion']}"
        )
