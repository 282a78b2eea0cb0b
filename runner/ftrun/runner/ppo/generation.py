"""Responses to a batch of prompts, sampled token by token with a cache of keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import DynamicCache

from ftrun.runner.ppo.networks import choose_options, core, count_positions

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Sampling:
    """How responses are sampled. A temperature of 0 takes the most probable token."""

    response_length: int
    min_response_length: int
    stop_ids: frozenset[int]
    pad_id: int
    temperature: float
    top_p: float


@dataclass(frozen=True)
class Responses:
    """Sampled tokens, padded on the right: `ids` of shape (responses, longest), their lengths with the stop
    token, and whether each ends with one."""

    ids: Tensor
    lengths: Tensor
    ended: Tensor


def pad_left(prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask of prompts, of shape (prompts, longest)."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    mask = (torch.arange(width) >= width - lengths[:, None]).long()
    return ids.to(device), mask.to(device)


def answer_prompts(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    batch_size: int,
    device: torch.device,
) -> Responses:
    """Responses to all prompts, `batch_size` at a time, prompts of like length together.

    `model` is to be in evaluation mode. The longest prompts come first, which tells early what memory it takes.
    """
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    ids = torch.full((len(prompts), sampling.response_length), sampling.pad_id, device=device)
    lengths = torch.zeros(len(prompts), dtype=torch.long, device=device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        part = generate(model, *pad_left([prompts[i] for i in chosen], sampling.pad_id, device), sampling)
        rows = torch.tensor(chosen, device=device)
        ids[rows, : part.ids.shape[1]] = part.ids
        lengths[rows], ended[rows] = part.lengths, part.ended
    return Responses(ids[:, : int(lengths.max())], lengths, ended)


@torch.no_grad()
def generate(model: PreTrainedModel, ids: Tensor, mask: Tensor, sampling: Sampling) -> Responses:
    """Responses to prompts that are padded on the left; `ids` and `mask` of shape (prompts, columns).

    Rows that have ended are dropped from the batch whenever they are half of it, so that a few long responses
    do not carry the others along.
    """
    model = core(model)
    count, width = ids.shape
    longest = sampling.response_length
    stops = torch.tensor(sorted(sampling.stop_ids), dtype=torch.long, device=ids.device)
    tokens = torch.full((count, longest), sampling.pad_id, device=ids.device)
    lengths = torch.full((count,), longest, device=ids.device)
    ended = torch.zeros(count, dtype=torch.bool, device=ids.device)
    mask = torch.cat([mask, mask.new_ones(count, longest)], 1)
    rows = torch.arange(count, device=ids.device)  # of `tokens`, for each row that is in the batch still
    cache = DynamicCache(config=model.config)
    positions = count_positions(mask[:, :width])
    # On a GPU a look at what has ended waits for it; there, it is worth one at every eighth token.
    every = 1 if ids.device.type == "cpu" else 8
    step = 0
    while True:
        logits = model(
            input_ids=ids,
            attention_mask=mask[:, : width + step],
            past_key_values=cache,
            use_cache=True,
            **choose_options(model, position_ids=positions, logits_to_keep=1),
        ).logits[:, -1]
        stopped = ended[rows]
        token = choose_tokens(logits.float(), stops, step >= sampling.min_response_length - 1, sampling)
        token = torch.where(stopped, sampling.pad_id, token)
        tokens[rows, step] = token
        stopping = torch.isin(token, stops) & ~stopped
        lengths[rows] = torch.where(stopping, step + 1, lengths[rows])
        stopped = stopped | stopping
        ended[rows] = stopped
        step += 1
        if step == longest:
            break
        ids, positions = token[:, None], positions[:, -1:] + 1
        if step % every == 0:
            running = (~stopped).nonzero().squeeze(1)
            if not len(running):
                break
            if len(running) * 2 <= len(rows):
                cache.batch_select_indices(running)
                ids, mask, positions, rows = ids[running], mask[running], positions[running], rows[running]
    return Responses(tokens[:, :step], lengths, ended)


def choose_tokens(logits: Tensor, stops: Tensor, may_stop: bool, sampling: Sampling) -> Tensor:
    """The next token of each row: logits of shape (rows, vocabulary), tokens of shape (rows,)."""
    if not may_stop:
        logits = logits.index_fill(1, stops, -torch.inf)
    if sampling.temperature == 0.0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits / sampling.temperature, -1)
    if sampling.top_p < 1.0:
        ordered, order = probabilities.sort(-1, descending=True)
        # What stands before a token is enough without it; the first token always stays.
        enough = ordered.cumsum(-1) - ordered >= sampling.top_p
        enough[:, 0] = False
        probabilities = probabilities.scatter(-1, order, ordered.masked_fill(enough, 0.0))
    # By inversion of the distribution function, with one random number for each row where `torch.multinomial`
    # draws one for each token of the vocabulary. In double precision the sum of a large vocabulary is exact
    # enough, and the number drawn stays below it: a token of probability 0 is never chosen.
    summed = probabilities.double().cumsum(-1)
    drawn = torch.rand(len(summed), 1, dtype=torch.double, device=summed.device) * summed[:, -1:]
    return torch.searchsorted(summed, drawn, right=True).squeeze(-1).clamp(max=summed.shape[1] - 1)
