"""The data loader feeds other rows, or trains other tokens of them, than the data stage counted.

Symptom: preflight has seen a healthy batch, and from some step on the model learns nothing, or never stops talking:
what reaches the loss has changed on the way.
Cause: a data collator or callback that begins to mask or to cut (a curriculum, an augmentation, a worker that has lost
its settings), or a sampler that takes rows of another data set.
Fix: let the data collator pad and nothing else; what is to change with time belongs into the data, or into the loss.
Prevention: preflight compares the first batch with the rows (DATA028), and this guard all others.
Source: no statistics. Of any so many rows, each taken once, it is known from the data stage how many tokens they have,
train and end with, at least and at most; whoever feeds fewer or more feeds something else. Each row is looked up by a
number of 64 bits, so that a row which is changed, and one which comes again before the others have come, is known. A
few per cent of tolerance are left to those who change rows on purpose.
"""

from __future__ import annotations

from collections.abc import Iterator

from ftrun.checks.check import check
from ftrun.checks.fed import Fed, Spread
from ftrun.checks.finding import Finding
from ftrun.checks.training import AtBatches


@check("GUARD006", title="what is fed is what the data stage counted", methods=("sft", "reward", "dpo"))
def batches_unlike_data(at: AtBatches) -> Iterator[Finding]:
    for fed, span in ((at.update, "of one update"), (at.epoch, "of this epoch so far")):
        message = _compare(at, fed, f"In the {fed.rows:,} rows {span}")
        if message:
            yield Finding(
                message,
                "Let the data collator pad and nothing else: labels come with the rows.",
                at.where("data"),
                evidence=at.name_untaught() if at.update.taught < at.update.rows else (),
            )
            return


def _compare(at: AtBatches, fed: Fed, span: str) -> str | None:
    tolerance = at.recipe.guards.batches_unlike_data.tolerance
    data = at.data
    if data.taught is not None and fed.taught < data.taught.least(fed.rows):
        most = fed.rows - data.taught.least(fed.rows)
        found = f"{fed.rows - fed.taught:,} train no token"
        return f"{span}, {found}; of so many rows of the data stage at most {most:,} do: they are masked on the way."
    for name, count, spread in (
        ("tokens are fed", fed.tokens, data.tokens),
        ("tokens are trained", fed.trained, data.trained),
        ("answers end with a stop token", fed.ended, data.ended),
    ):
        if spread is not None and not _fits(count, fed.rows, spread, tolerance):
            least, most = spread.least(fed.rows), spread.most(fed.rows)
            return f"{span}, {count:,} {name}; so many rows of the data stage have {least:,} to {most:,}."
    return _compare_rows(fed, span, data.tokens.rows, tolerance)


def _compare_rows(fed: Fed, span: str, rows: int, tolerance: float) -> str | None:
    """Each row is one of the data stage, with its own tokens as labels, and comes again when all others have come."""
    if fed.mislabelled > tolerance * fed.trained:
        return f"{span}, {fed.mislabelled:,} of {fed.trained:,} trained tokens have another token as their label."
    if fed.strange > tolerance * fed.rows:
        changed = "their tokens, or the sides of pairs, change on the way"
        return f"{span}, {fed.strange:,} are none of the data stage's: {changed}."
    if fed.again > max(0, fed.rows - rows) + tolerance * fed.rows:
        return f"{span}, {fed.again:,} were fed before, while others of the {rows:,} rows still wait."
    return None


def _fits(count: int, rows: int, spread: Spread, tolerance: float) -> bool:
    return spread.least(rows) * (1 - tolerance) <= count <= spread.most(rows) * (1 + tolerance)
