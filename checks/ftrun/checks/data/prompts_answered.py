"""Prompts that the model is to answer hold their answer already.

Symptom: rewards are high or say little from the first step on; answers begin in the middle, or end at once.
Cause: the prompts were made from rows of supervised training, with the answer still behind `Answer:`.
Fix: cut the prompts behind the label of the answer.
Prevention: look at a row with `ftrun preview`.
Source: told are prompts whose last line with a label such as `Answer:` or `Assistant:` goes on for five words and
ends with the end of a sentence, in half of the rows. A prompt that ends with the label, or begins an answer, is right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import clip, parts_of, spread
from ftrun.checks.exchanges import SAMPLE
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData
from ftrun.schemas.mistake import Where

if TYPE_CHECKING:
    from ftrun.checks.testing import World

HALF = 0.5
ENOUGH = 16
WORDS = 5
LABEL = re.compile(r"^(?:#+ *)?(?:Answer|A|Assistant|Response|Output|Solution|AI|Bot|Reply):", re.MULTILINE)
OTHERS = re.compile(r"^(?:#+ *)?(?:Question|Q|User|Human|Instruction|Input|Text):", re.MULTILINE)
END = (".", "!", "?", '."', ".)", "</s>", "|>")


@check("DATA072", title="prompts do not hold their answers", severity="warning", methods=("ppo",))
def prompts_answered(at: AtData) -> Iterator[Finding]:
    sources = [one for one in at.sources if one.loss_on == "nothing"]
    if not sources:
        raise NotApplicable("no source is prompts to be answered")
    for source in sources:
        rows = spread(len(source.examples), SAMPLE).tolist()
        texts = [(row, parts_of(source.examples[row], "completion")) for row in rows]
        found = [(row, parts[-1].text) for row, parts in texts if parts and _is_answered(parts[-1].text)]
        if len(found) >= max(ENOUGH, HALF * len(rows)):
            row, text = found[0]
            yield Finding(
                message=f"{len(found)} of {len(rows)} prompts of {source.label} that were looked at end with an "
                "answer.",
                fix="Cut the prompts behind the label of their answer.",
                where=Where(file=source.label, row=source.numbers[row], key=source.key),
                evidence=(clip(text),),
            )


def _is_answered(text: str) -> bool:
    """Whether what stands behind the last label of an answer is one."""
    labels = list(LABEL.finditer(text))
    behind = text[labels[-1].end() :].strip() if labels else ""
    return len(behind.split()) >= WORDS and behind.endswith(END) and not OTHERS.search(behind)


@prompts_answered.fault
def rows_of_supervised_training(world: World) -> None:
    for number, row in enumerate(world.rows):
        row["prompt"] = f"Question: {row['prompt']}Answer: The thing in room {number} is green."
