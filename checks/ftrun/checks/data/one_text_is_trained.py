"""Most of what is trained is one instruction that all rows share.

Symptom: the loss falls far at once, and answers hardly improve: most of it is a header that is known by heart.
Cause: `loss_on: all` with a long instruction or system message in every row.
Fix: set `data.loss_on` to `completion` (of conversations: `assistant`).
Prevention: `ftrun preview` shows every trained token.
Source: told are sources of which everything is trained and all rows begin with the same 64 tokens or more, where these
are half of what is trained. What answers begin with is not judged: a greeting, or a call of the one tool that there is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import clip, spread
from ftrun.checks.finding import Finding
from ftrun.checks.rows import IGNORED
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ftrun.checks.testing import World

HALF = 0.5
ENOUGH, LONG = 16, 64
SAMPLE = 64


@check("DATA075", title="what is trained differs from row to row", severity="warning", methods=("sft",))
def one_text_is_trained(at: AtData) -> Iterator[Finding]:
    import numpy as np

    judged = False
    for number, source in enumerate(at.train.sources):
        if source.loss_on != "all" or source.format == "text":
            continue
        own = np.flatnonzero(at.train.origins[:, 0] == number)
        rows = [at.train[int(row)] for row in own[spread(len(own), SAMPLE)]]
        taught = [row.labels[row.labels != IGNORED] for row in rows]
        if len({one.tobytes() for one in taught}) < max(ENOUGH, HALF * len(taught)):
            continue
        judged = True
        shared = _count_shared(taught)
        total = sum(map(len, taught))
        if shared >= LONG and shared * len(taught) >= HALF * total:
            yield Finding(
                message=f"{shared * len(taught) / total:.0%} of the trained tokens of {source.label} are one text that "
                f"every row begins with: {shared} of {total / len(taught):.0f} tokens.",
                fix="Set data.loss_on to completion (of conversations: assistant).",
                where=at.where("data.loss_on"),
                evidence=(clip(at.tokenizer.decode(taught[0][:shared].tolist())),),
            )
    if not judged:
        raise NotApplicable("prompts are not trained, or there are too few different rows")


def _count_shared(taught: list[NDArray[np.int32]]) -> int:
    """Trained tokens that all rows begin with."""
    import numpy as np

    length = min(map(len, taught))
    same = (np.stack([one[:length] for one in taught]) == taught[0][:length]).all(0)
    return int(np.argmin(same)) if not same.all() else length


@one_text_is_trained.fault
def the_instruction_is_trained(world: World) -> None:
    header = "You know every room of the house, and answer in one short sentence. " * 6
    world.recipe["data"]["loss_on"] = "all"
    for row in world.rows:
        row["prompt"] = header + row["prompt"]
