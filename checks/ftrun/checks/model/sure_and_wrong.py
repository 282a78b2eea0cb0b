"""The model is sure of its words, and they are not those of the rows.

Symptom: the loss starts near that of guessing or above it, and most of the run is spent on finding words again.
Cause: a tokenizer of another model with a vocabulary of the same size, an embedding or head whose rows were moved, a
damaged merge: what the model writes under a number is another word.
Fix: use the tokenizer and the weights that belong together.
Prevention: ask a model something before you tune it.
Source: a model that knows nothing of a text is unsure of it: its entropy is about its loss (calibration, Guo 2017,
arXiv 1706.04599). Told is a loss above 0.8 ln V that is 3 nats above the entropy. Measured with tiny models: at most
2.5 nats apart for those that knew nothing or were taught a little, −0.1 for one that knew its rows by heart; 4.0 with
another order of the tokenizer's words, 10.6 with the head's rows shifted by one. Answers alone are asked about (of
pairs the chosen ones): a model that was tuned on these is as far off on prompts (11 nats). A model of English under
Chinese rows is, too (5.5): it has to be wrong about plain English as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import spread
from ftrun.checks.finding import Finding
from ftrun.checks.reference import without_dropout
from ftrun.checks.rows import IGNORED
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    from ftrun.checks.testing import World

ROWS, TOKENS = 8, 512
"""Rows that are looked at, and how much of each."""

ENOUGH = 32
NEAR, APART = 0.8, 3.0

PLAIN = (
    "The weather was fine, so we went to the river with the children. It is a long way, and there was no bus. "
    "What do you think about it? I would like to know how much time you need for the first part of the work, and "
    "whether you can send it to us by the end of the week."
)
"""What a model of any language has read the like of: one that knows it has words that are in their places, and rows in
a language that is new to it."""


@check(
    "MODEL038",
    title="the model and the tokenizer mean the same words",
    severity="warning",
    methods=("sft", "dpo"),
)
def sure_and_wrong(at: AtModel) -> Iterator[Finding]:
    sides = at.train.sides
    rows = [at.train[pair * sides] for pair in spread(len(at.train) // sides, ROWS).tolist()]
    answers = [(row.ids[:TOKENS].tolist(), (row.labels[1:TOKENS] != IGNORED).tolist()) for row in rows]
    if sum(sum(trained) for _, trained in answers) < ENOUGH:
        raise NotApplicable("the answers have too few tokens")
    loss, entropy = _ask(at, answers)
    guessing = math.log(at.model.config.get_text_config().vocab_size)
    if loss < NEAR * guessing or loss - entropy < APART:
        return
    plain = at.tokenizer(PLAIN, add_special_tokens=False)["input_ids"]
    if len(plain) < 2 or _ask(at, [(plain, [True] * (len(plain) - 1))])[0] > NEAR * guessing:
        yield Finding(
            message=f"The model is sure of its words (entropy {entropy:.2f}) and wrong (loss {loss:.2f}, where "
            f"guessing gives {guessing:.2f}): what it writes under a number is another word.",
            fix="Use the tokenizer and the weights that belong together.",
            where=at.where("model.path"),
        )


def _ask(at: AtModel, rows: Sequence[tuple[list[int], list[bool]]]) -> tuple[float, float]:
    """The mean loss of the model on rows of tokens, and its mean entropy, in nats; a row says of each token but its
    first whether it counts."""
    import torch

    losses, entropies = [], []
    with without_dropout(at.model), torch.no_grad(), at.trainer.accelerator.autocast():
        for row, counted in rows:
            ids = torch.tensor(row, device=at.trainer.args.device)
            logits: Any = at.model(input_ids=ids[None], use_cache=False).logits
            words, counts = logits[0, :-1].float().log_softmax(-1), torch.tensor(counted, device=ids.device)
            losses += (-words.gather(1, ids[1:, None])).flatten()[counts].tolist()
            entropies += (-(words.exp() * words).sum(-1))[counts].tolist()
    return sum(losses) / len(losses), sum(entropies) / len(entropies)


@sure_and_wrong.fault
def rows_of_the_head_were_moved(world: World) -> None:
    """The model knows its rows by heart, by the numbers of other words."""

    def damage(at: AtModel) -> AtModel:
        import torch

        rows = [at.train[i].ids.tolist() for i in range(8)]
        optimizer = torch.optim.AdamW(at.model.parameters(), lr=5e-3)
        for step in range(40):
            ids = torch.tensor([rows[step % len(rows)]])
            at.model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        head = at.model.get_output_embeddings().weight.data
        head.copy_(head.roll(1, 0))
        return at

    world.after(AtModel, damage)
