"""max_length cuts answers off.

Symptom: the model stops in the middle of answers, or never stops, since their ends were never seen.
Cause: training.max_length is shorter than many rows.
Fix: raise training.max_length so that it holds nearly every row, or shorten the rows.
Prevention: compare max_length with the lengths that `ftrun preflight` shows when data change.
Source: 5 % of the rows are an error, 1 % of them and of all tokens a warning: LLaMA-Factory#3995, LLaMA-Factory#3143.
Plain text has no answer to lose, so that a cut there is a warning at most.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import cut_rows
from ftrun.checks.finding import Finding, Patch, Severity
from ftrun.checks.limits import longest_input
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ftrun.checks.testing import World

MANY, SOME = 0.05, 0.01
STEP = 64
"""Proposed lengths are multiples of it, which suit the kernels of GPUs."""


@check("DATA011", title="max_length holds the rows", methods=("sft", "dpo"))
def answers_cut_off(at: AtData) -> Iterator[Finding]:
    import numpy as np

    rows, training = at.train, at.recipe.training
    if training["max_length"] is None:
        raise NotApplicable("training.max_length is null: rows keep their length")
    cut = cut_rows(rows)
    if not cut.any():
        return
    by_source = np.array([source.format != "text" for source in rows.sources], np.bool_)
    has_answers = bool((cut & by_source[rows.origins[:, 0]]).any())
    share = float(cut.mean())
    full = rows.full_lengths
    lost = 1 - int(rows.lengths.sum()) / int(full.sum())
    side = "ends" if training["truncation_mode"] == "keep_start" else "beginnings"
    fix, patch = _propose(at, full, has_answers)
    yield Finding(
        message=f"{int(cut.sum())} of {len(rows)} rows ({share:.1%}) are longer than max_length "
        f"{training['max_length']} and lose their {side}, {lost:.1%} of all tokens. Rows have "
        f"{np.percentile(full, 50):.0f} tokens at the median, {np.percentile(full, 95):.0f} at the 95th "
        f"percentile, {full.max()} at most.",
        fix=fix,
        where=at.where("training.max_length"),
        evidence=tuple(
            f"{rows[i].where}: {full[i]} tokens" for i in np.argsort(-full, kind="stable")[:3].tolist()
        ),
        patch=patch,
        severity=_grade(share, lost, has_answers),
    )


def _grade(share: float, lost: float, has_answers: bool) -> Severity:
    if share > MANY:
        return "error" if has_answers else "warning"
    return "warning" if min(share, lost) > SOME else "info"


def _propose(at: AtData, full: NDArray[np.int32], has_answers: bool) -> tuple[str, Patch | None]:
    """A max_length that keeps 99 of 100 rows whole, where the model takes that many tokens; for text in packs a
    strategy that loses none of it."""
    import numpy as np

    training = at.recipe.training
    if not has_answers and training["packing"] and training["packing_strategy"] == "bfd":
        fix = (
            "Set training.packing_strategy to bfd_split, which divides long documents and keeps all of them."
        )
        return fix, Patch("training.packing_strategy", "bfd_split")
    wanted = int(np.ceil(np.percentile(full, 99, method="higher") / STEP)) * STEP
    limit = longest_input(at.model_config)
    now = training["max_length"]
    if limit is not None and wanted > limit:
        wanted = limit
        if wanted <= now:
            return f"Shorten or split these rows: the model takes {limit} tokens at most.", None
    whole = float((full <= wanted).mean())
    return (
        f"Set training.max_length to {wanted}, which holds {whole:.1%} of the rows, or shorten the rows.",
        Patch("training.max_length", wanted),
    )


@answers_cut_off.fault
def max_length_is_too_short(world: World) -> None:
    world.recipe["training"]["max_length"] = 24


@answers_cut_off.fault
def a_few_answers_are_long(world: World) -> None:
    for row in world.rows[:3]:
        row["completion"] *= 40
