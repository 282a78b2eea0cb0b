"""Answers hold the furniture of a page: cookies, sharing, other articles.

Symptom: the model ends its answers with `Share this on Facebook`.
Cause: a scraper took the text around an article along.
Fix: remove these lines where the rows are made.
Prevention: extract the text of pages with a tool that knows their furniture (trafilatura, readability).
Source: told are lines and sentences that more than five answers and 2 % of a source have to the letter, and that speak
of cookies, sharing, subscribing, further articles, rights or advertisements. Of 10,389 answers of Alpaca, GSM8K and
judged pairs 7 have such a line, each its own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.examples import clip
from ftrun.checks.exchanges import FEW, read_exchanges, with_answers
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

SHARE = 0.02
LONGEST = 200
FURNITURE = re.compile(
    r"\bcookies? (?:policy|settings|to (?:improve|ensure|give))|\b(?:accept|use|uses) (?:all )?cookies\b|"
    r"\bshare (?:this|on (?:facebook|twitter|linkedin|whatsapp))|\bsubscribe to (?:our|the|my) |"
    r"\bsign up for (?:our|the) newsletter|\b(?:read|see) (?:more|also|next)[: ]|\bread more\b|"
    r"\brelated (?:articles|posts)\b|\ball rights reserved\b|\bfollow us on\b|\bclick here to\b|"
    r"\badvertisement\b|\bskip to (?:main )?content\b|\bleave a (?:comment|reply)\b|\bprivacy policy\b|"
    r"\bterms of (?:use|service)\b",
    re.IGNORECASE,
)


@check(
    "DATA074",
    title="answers hold no furniture of pages",
    severity="warning",
    methods=("sft", "reward", "dpo"),
)
def furniture_in_answers(at: AtData) -> Iterator[Finding]:
    for source in with_answers(at.sources):
        read = read_exchanges(source)
        lines = [_furniture(one.answered) for one in read]
        counts = Counter(line for found in lines for line in found)
        line, count = max(counts.items(), key=lambda one: one[1], default=("", 0))
        answers = {one.answered for one, found in zip(read, lines, strict=True) if line in found}
        if len(answers) > FEW and count >= SHARE * len(read):
            first = next(one for one, found in zip(read, lines, strict=True) if line in found)
            yield Finding(
                message=f"{count} of {len(read)} answers of {source.label} that were looked at hold the line "
                f"{clip(line, 60)}, which belongs to the page that they were taken from.",
                fix="Remove such lines where the rows are made.",
                where=Where(file=source.label, row=first.row, key=source.key),
                evidence=(f"row {first.row} ends {clip(first.answered[-160:])}",),
            )


def _furniture(text: str) -> set[str]:
    lines = (line.strip() for line in re.split(r"\n|(?<=[.!?]) ", text))
    return {line for line in lines if len(line) <= LONGEST and FURNITURE.search(line)}


@furniture_in_answers.fault
def a_scraper_took_the_page(world: World) -> None:
    for row in world.rows[::3]:
        row["completion"] += "\nShare this on Facebook. Read more in our archive."
