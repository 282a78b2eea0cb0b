"""The memory of PPO's parts: answering prompts, and training on the answers, without values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

from ftrun.runner.plan.footprint import ROLLOUT
from ftrun.runner.plan.rows import longest_row
from ftrun.runner.plan.weightless import replaced
from ftrun.runner.ppo.experience import Experience, PPOState, Sequences
from ftrun.runner.ppo.generation import choose_tokens
from ftrun.runner.ppo.networks import choose_options, core, count_positions, evaluating

if TYPE_CHECKING:
    from transformers import Trainer


@contextmanager
def answered(trainer: Trainer, rows: int) -> Iterator[None]:
    """Inside, the trainer has a rollout of one micro-batch: the longest prompt with the longest response, `rows`
    times. Without values no row can be told from another, and so all are taken as they are."""
    width, before = trainer.args.response_length, longest_row(trainer.train_dataset)
    sequences = Sequences(
        ids=torch.empty(rows, before + width, dtype=torch.long),
        prompts=torch.empty(rows, dtype=torch.long),
        lengths=torch.empty(rows, dtype=torch.long),
        width=width,
    )
    experience = Experience(
        sequences=sequences,
        logprobs=torch.empty(rows, width),
        values=torch.empty(rows, width),
        advantages=torch.empty(rows, width),
        returns=torch.empty(rows, width),
        batches=torch.empty(1, rows, dtype=torch.long),
        tokens=torch.empty(1),
    )
    state = trainer.ppo
    trainer.ppo = PPOState(kl_coef=0.0, experience=experience)
    try:
        with (
            replaced(Sequences, "take", lambda self, _: self),
            replaced(Sequences, "group", lambda self: [torch.arange(len(self))]),
        ):
            yield
    finally:
        trainer.ppo = state


def roll_out(trainer: Any, enter: Callable[[str], None]) -> None:
    """Answers at their full length: a forward pass over prompts and responses that fills the cache of keys and
    values, and the choice of a token. More than what sampling token by token takes by the activations of one
    pass without gradients."""
    enter(ROLLOUT)
    sampling, model = trainer.sampling, core(trainer.model.policy)
    rows = min(trainer.args.local_rollout_forward_batch_size, trainer.args.rollout_size)
    width = longest_row(trainer.train_dataset) + sampling.response_length
    ids = torch.empty(rows, width, dtype=torch.long)
    mask = torch.ones_like(ids)
    with torch.no_grad(), evaluating(trainer.model), trainer.accelerator.autocast():
        options = choose_options(model, position_ids=count_positions(mask), logits_to_keep=1)
        cache = DynamicCache(config=model.config)
        output = model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **options)
        choose_tokens(output.logits[:, -1].float(), torch.tensor(sorted(sampling.stop_ids)), True, sampling)
