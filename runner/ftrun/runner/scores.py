"""Scores of whole rows by a reward model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ftrun.checks.rows import Rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def score_rows(
    rows: Rows, model: PreTrainedModel, pad_id: int, *, batch_size: int = 16
) -> NDArray[np.float32]:
    """The score of each row, read at its last token: shape (rows,).

    Rows are padded on the right, in batches of rows of like length, and no gradient is kept.
    """
    import torch

    lengths = rows.lengths
    order = np.argsort(-lengths, kind="stable")  # the longest first: what memory it takes is known early
    scores = np.empty(len(rows), np.float32)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            ids = np.full((len(chosen), int(lengths[chosen].max())), pad_id, np.int64)
            mask = np.zeros_like(ids)
            for i, row in enumerate(chosen):
                ids[i, : lengths[row]] = rows.ids[rows.starts[row] : rows.starts[row + 1]]
                mask[i, : lengths[row]] = 1
            inputs = {"input_ids": ids, "attention_mask": mask}
            logits = model(
                **{name: torch.from_numpy(one).to(model.device) for name, one in inputs.items()},
                use_cache=False,
            ).logits
            scores[chosen] = logits[:, 0].float().cpu().numpy()
    model.train(was_training)
    return scores
