"""Packing cuts rows anywhere and lets them see each other.

Symptom: the model answers one question with what belongs to another; answers begin in the middle.
Cause: `packing_strategy: wrapped` joins all rows into one stream and cuts it at `max_length`. Attention goes over the
boundaries of rows, and an answer may stand without its question. That is the habit of pretraining on text.
Fix: set `training.packing_strategy` to bfd, or to bfd_split where rows are longer than `max_length`.
Source: measured with a tiny model: exchanging one document changes logits of the next by 0.1; with bfd by 0.0.
trl#3526, LLaMA-Factory#7754, alignment-handbook#204.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("DATA025", title="packing keeps questions and answers together", severity="warning", methods=("sft",))
def documents_wrapped(at: AtData) -> Iterator[Finding]:
    import numpy as np

    training, rows = at.recipe.training, at.train
    if not training["packing"]:
        raise NotApplicable("rows are not packed")
    if training["packing_strategy"] != "wrapped":
        return
    asks = np.array([source.format != "text" for source in rows.sources], np.bool_)[rows.origins[:, 0]]
    if not asks.any():
        return
    ends = rows.starts[1:][asks]
    begins = rows.starts[:-1][asks]
    # A row is cut where the stream's blocks of max_length end inside it, whatever the order of the rows.
    blocks = len(rows.ids) / training["max_length"]
    cut = min(int((ends - begins > 1).sum()), round(blocks))
    yield Finding(
        message=f"Packing joins {int(asks.sum())} rows of question and answer into {blocks:.0f} blocks of "
        f"{training['max_length']} tokens: about {cut} rows are cut in two, and all see the rows before them.",
        fix="Set training.packing_strategy to bfd_split.",
        where=at.where("training.packing_strategy"),
        patch=Patch("training.packing_strategy", "bfd_split"),
    )


@documents_wrapped.fault
def questions_and_answers_are_wrapped(world: World) -> None:
    world.recipe["training"] |= {"packing": True, "packing_strategy": "wrapped", "max_length": 64}
