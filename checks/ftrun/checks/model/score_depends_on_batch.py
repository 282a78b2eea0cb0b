"""A row scores otherwise in a batch than alone.

Symptom: accuracy of evaluation changes with its batch size; the model that is used one answer at a time ranks them
otherwise than in training.
Cause: the score is taken at a place of the batch (its last column) and not at the end of the row, or padding is
attended to.
Fix: let the model read the score at the last token of each row, and pass the attention mask.
Prevention: score a few rows both ways after changing a model or a collator.
Source: trl#550, transformers#35352. Rounding is allowed: 10⁻³ of the largest score or of 1, 2·10⁻² in half precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.reference import collate, without_dropout
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    import torch

    from ftrun.checks.testing import World

PAIRS = 4
FINE, COARSE = 1e-3, 2e-2


@check("RM005", title="a row scores the same alone and in a batch", methods=("reward",))
def score_depends_on_batch(at: AtModel) -> Iterator[Finding]:
    import torch

    if not len(at.train_dataset) or at.model.config.get_text_config().pad_token_id is None:
        raise NotApplicable("there is no pair, or no padding token")
    batch = collate(at.trainer, at.trainer.train_dataset, 0, min(PAIRS, len(at.train_dataset)))
    ids, mask = batch["input_ids"], batch["attention_mask"]
    with without_dropout(at.model), torch.no_grad(), at.trainer.accelerator.autocast():
        together = _score(at.model, ids, mask)
        alone = torch.cat(
            [
                _score(at.model, row[kept.bool()][None], kept[kept.bool()][None])
                for row, kept in zip(ids, mask, strict=True)
            ]
        )
    halves = any(p.is_floating_point() and p.element_size() < 4 for p in at.model.parameters())
    allowed = COARSE if halves or at.trainer.args.bf16 or at.trainer.args.fp16 else FINE
    far = (together - alone).abs()
    if bool((far > allowed * max(1.0, float(alone.abs().max()))).any()):
        yield Finding(
            message=f"{int((far > allowed).sum())} of {len(ids)} rows score otherwise in a batch than alone, by up to "
            f"{float(far.max()):.3g}.",
            fix="Let the score be read at the last token of each row, whatever its batch is padded with.",
            where=at.where("model.path"),
        )


def _score(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    scores: torch.Tensor = model(input_ids=ids, attention_mask=mask).logits[:, 0].float()
    return scores


@score_depends_on_batch.fault
def the_last_column_is_scored(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        score = at.model.score

        class Pool(type(score)):  # type: ignore[misc]  # the class is known when it runs
            def forward(self, states: Any) -> Any:
                scores = super().forward(states)
                return scores[:, -1:].expand_as(scores)

        score.__class__ = Pool
        return at

    world.after(AtModel, damage)
