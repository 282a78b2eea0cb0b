"""Answers are the message of a service that failed, or one text stands for many prompts.

Symptom: the model says `Rate limit reached` or `TODO` to questions that it could answer.
Cause: the service that wrote the answers failed, and its message was stored as the answer; or rows were filled with a
default until somebody would write them.
Fix: remove these rows, or have their answers written again.
Prevention: count the most frequent answers of a file.
Source: told are answers that are no more than a failure of a service (`rate limit`, `internal server error`) or a note
to oneself (`TODO`), in 1 % of the rows and six, where the prompts do not speak of such. Of 10,389 answers of Alpaca,
GSM8K and judged pairs none is. Another text of three words or more that 5 % of the rows have for an answer, where nine
of ten others are of their own, is an info: one refusal for all that is to be refused, or one `I do not know`, may be
wanted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.examples import clip
from ftrun.checks.exchanges import FEW, Exchange, read_exchanges, with_answers
from ftrun.checks.finding import Finding, Severity
from ftrun.checks.rows import SourceRows
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

FAILED, MANY, NEARLY_ALL = 0.01, 0.05, 0.9
WORDS = 3
"""Words of what is no mere label."""

LONGEST = 400
"""Characters of a message about a failure."""

FAILURE = re.compile(
    r"\W{0,9}(?:error|exception|\w{1,30}\.error\.\w{1,40}|\w{1,40}Error|http|api error)?\W{0,3}(?:code)?\W{0,3}"
    r"(?:\d{3})?\W{0,3}(?:the |this |your )?(?:"
    r"rate[ _-]?limit(?:[ _](?:error|reached|exceeded|hit))|too many requests|internal server error|bad gateway|"
    r"service (?:temporarily )?unavailable|gateway time-?out|(?:request|connection|model|server) timed out|"
    r"(?:model|server|engine|service) is (?:currently )?overloaded|quota (?:was |is |has been )?exceeded|"
    r"you exceeded your current quota|invalid api key|incorrect api key|(?:model's )?maximum context length|"
    r"response was filtered|lorem ipsum|"
    r"(?:TODO|TBD|FIXME|to be (?:done|written|filled in)|generation failed|no response)\W*\Z)",
    re.IGNORECASE,
)
"""What a message about a failure begins with, behind its kind and number; or the whole of a note."""

TOPIC = re.compile(
    r"errors?\b|fail|limit|quota|time-?out|server|\bAPI\b|\bHTTP\b|to-?do\b|\btbd\b|fixme|lorem|placeholder|log\b",
    re.IGNORECASE,
)
"""What a prompt speaks of that may be answered so."""


@check(
    "DATA098",
    title="no answer is a failure, or one for many prompts",
    severity="warning",
    methods=("sft", "reward", "dpo"),
)
def one_answer_for_many(at: AtData) -> Iterator[Finding]:
    for source in with_answers(at.sources):
        read = read_exchanges(source)
        failed = [one for one in read if _is_failure(one)]
        if len({one.asked for one in failed}) > max(FEW, FAILED * len(read)):
            yield _tell(
                source,
                failed,
                f"{len(failed)} of {len(read)} answers of {source.label} that were looked at are no answer: "
                f"{clip(failed[0].answered, 80)}.",
                "Remove these rows, or have their answers written again.",
                "warning",
            )
            continue
        counts = Counter(one.answered.strip() for one in read)
        text, count = max(counts.items(), key=lambda one: one[1], default=("", 0))
        alike = [one for one in read if one.answered.strip() == text]
        own = sum(n == 1 for n in counts.values())
        is_shared = (
            len({one.asked for one in alike}) > max(FEW, MANY * len(read)) and len(text.split()) >= WORDS
        )
        if is_shared and own >= NEARLY_ALL * max(1, len(read) - count):
            yield _tell(
                source,
                alike,
                f"{count} of {len(read)} answers of {source.label} that were looked at are one and the same, "
                f"{clip(text, 80)}, to different prompts; {own} are of their own.",
                "Read some of these rows, and remove them if nobody wrote that answer for them.",
                "info",
            )


def _tell(
    source: SourceRows, wrong: Sequence[Exchange], message: str, fix: str, severity: Severity
) -> Finding:
    return Finding(
        message=message,
        fix=fix,
        where=Where(file=source.label, row=wrong[0].row, key=source.key),
        evidence=tuple(f"row {one.row}: {clip(one.asked, 80)}" for one in wrong[:3]),
        severity=severity,
    )


def _is_failure(exchange: Exchange) -> bool:
    text = exchange.answered
    return len(text) <= LONGEST and FAILURE.match(text) is not None and TOPIC.search(exchange.asked) is None


@one_answer_for_many.fault
def a_service_failed(world: World) -> None:
    for number, row in enumerate(world.rows):
        row["prompt"], row["completion"] = f"{number}. {row['prompt']}", f"{row['completion']} {number}"
        if number % 4 == 0:
            row["completion"] = f"Error: Rate limit reached for requests. Please try again in {number}ms."


@one_answer_for_many.fault
def rows_are_to_be_written(world: World) -> None:
    for number, row in enumerate(world.rows):
        row["prompt"], row["completion"] = f"{number}. {row['prompt']}", f"{row['completion']} {number}"
        if number % 4 == 0:
            row["completion"] = "TODO"
