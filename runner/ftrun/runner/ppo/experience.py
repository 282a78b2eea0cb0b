"""What a rollout leaves to train on, and what the trainer remembers between steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.distributed import is_initialized
from torch.nn.functional import pad

from ftrun.runner.ppo.objective import Moments

CALL_TOKENS_CPU, CALL_TOKENS_GPU = 24, 512
"""What one more call of a model costs, in tokens that it might read instead. On a CPU from models of hidden size 64
(40) and 256 (14), benchmarks/ppo_against_trl.py; on a GPU an estimate: 2 ms of launches at a tenth of its speed."""


@dataclass(frozen=True, eq=False)
class Sequences:
    """Prompts, padded on their left, and responses, padded on their right.

    `ids` is of shape (responses, columns of prompts + columns of responses). `prompts` and `lengths` count the
    tokens of each prompt and response; both stay in main memory, so that no cut waits for a GPU.
    """

    ids: Tensor
    prompts: Tensor
    lengths: Tensor
    width: int
    """Columns of the responses."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def mask(self) -> Tensor:
        """1 for what is no padding."""
        columns = torch.arange(self.ids.shape[1]) - (self.ids.shape[1] - self.width)
        mask = (columns >= -self.prompts[:, None]) & (columns < self.lengths[:, None])
        return mask.long().to(self.ids.device)

    @property
    def response_mask(self) -> Tensor:
        """True for the tokens of the responses: shape (responses, width)."""
        return (torch.arange(self.width) < self.lengths[:, None]).to(self.ids.device)

    def take(self, rows: Tensor) -> Sequences:
        """Some of the sequences, without the columns that are padding in each of them."""
        prompts, lengths = self.prompts[rows], self.lengths[rows]
        start = self.ids.shape[1] - self.width
        before, width = int(prompts.max()), int(lengths.max())
        chosen = self.ids[rows.to(self.ids.device)]
        return Sequences(chosen[:, start - before : start + width], prompts, lengths, width)

    def group(self) -> list[Tensor]:
        """Rows of like length together, in as many groups as save more padding than they cost."""
        order = torch.argsort(self.prompts + self.lengths, stable=True)
        cost = CALL_TOKENS_CPU if self.ids.device.type == "cpu" else CALL_TOKENS_GPU

        def work(groups: list[Tensor]) -> int:
            columns = (int(self.prompts[rows].max() + self.lengths[rows].max()) for rows in groups)
            return sum(cost + len(rows) * count for rows, count in zip(groups, columns, strict=True))

        counts = (count for count in (1, 2, 4, 8) if count <= len(self))
        return min((list(order.tensor_split(count)) for count in counts), key=work)


def read_grouped(read: Callable[..., tuple[Tensor, ...]], sequences: Sequences) -> tuple[Tensor, ...]:
    """What `read(ids, mask, width)` gives for sequences, of which those of like length are read together: tensors of
    shape (responses, width), which hold 0 where a group was narrower.

    Several processes read each their sequences at once: they have to make the same number of calls.
    """
    groups = [] if is_initialized() else sequences.group()
    if len(groups) < 2:
        return read(sequences.ids, sequences.mask, sequences.width)
    parts = [sequences.take(rows) for rows in groups]
    found = [read(part.ids, part.mask, part.width) for part in parts]
    back = torch.cat(groups).argsort().to(sequences.ids.device)
    return tuple(
        torch.cat([pad(one, (0, sequences.width - one.shape[1])) for one in column])[back]
        for column in zip(*found, strict=True)
    )


@dataclass(frozen=True, eq=False)
class Experience:
    """The sequences of a rollout with what the networks said of them, all of shape (responses, width).

    `batches`, of shape (micro-batches of all passes, rows of each), holds the rows in the order in which they
    are trained on. `tokens`, of shape (minibatches of all passes,) and in main memory, is what the loss of each
    minibatch is divided by: its tokens, mean over the processes, of which each has a part of it.
    """

    sequences: Sequences
    logprobs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    batches: Tensor
    tokens: Tensor

    def as_tensors(self) -> dict[str, Any]:
        """Everything, in one flat mapping of tensors and numbers, on the CPU."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "sequences"}
        inner = {field.name: getattr(self.sequences, field.name) for field in fields(self.sequences)}
        return {
            name: value.cpu() if isinstance(value, Tensor) else value for name, value in (own | inner).items()
        }


def restore_experience(tensors: Mapping[str, Any], device: torch.device) -> Experience:
    """The experience that `as_tensors` took apart."""
    on_host = {"prompts", "lengths", "batches", "tokens"}
    moved: dict[str, Any] = {
        name: value if name in on_host or not isinstance(value, Tensor) else value.to(device)
        for name, value in tensors.items()
    }
    inner = {field.name: moved.pop(field.name) for field in fields(Sequences)}
    return Experience(sequences=Sequences(**inner), **moved)


def concatenate(parts: Sequence[Experience]) -> Experience:
    """The experience of several processes as that of one, whose minibatches are theirs together."""
    if len(parts) == 1:
        return parts[0]
    before = max(one.sequences.ids.shape[1] - one.sequences.width for one in parts)
    width = max(one.sequences.width for one in parts)

    def stack(name: str) -> Tensor:
        return torch.cat([pad(getattr(one, name), (0, width - one.sequences.width)) for one in parts])

    ids = []
    for one in parts:
        left = before - (one.sequences.ids.shape[1] - one.sequences.width)
        ids.append(pad(one.sequences.ids, (left, width - one.sequences.width)))
    prompts, lengths = (
        torch.cat([getattr(one.sequences, name) for one in parts]) for name in ("prompts", "lengths")
    )
    offsets = [sum(len(one.sequences) for one in parts[:number]) for number in range(len(parts))]
    rows = [
        one.batches.view(len(one.tokens), -1) + offset for one, offset in zip(parts, offsets, strict=True)
    ]
    return Experience(
        sequences=Sequences(torch.cat(ids), prompts, lengths, width),
        logprobs=stack("logprobs"),
        values=stack("values"),
        advantages=stack("advantages"),
        returns=stack("returns"),
        batches=torch.cat(rows, 1).view(-1, parts[0].batches.shape[1]),
        tokens=parts[0].tokens * len(parts),
    )


def deal(experience: Experience, rank: int, processes: int, size: int) -> Experience:
    """What one of `processes` trains on of an experience: its share of each minibatch, in micro-batches of `size`."""
    minibatches = experience.batches.view(len(experience.tokens), processes, -1)
    return replace(
        experience,
        batches=minibatches[:, rank].reshape(-1, size),
        tokens=experience.tokens / processes,
    )


def join(prompts: list[list[int]], responses: Tensor, lengths: Tensor, pad_id: int) -> Sequences:
    """Prompts and their responses; `responses` of shape (responses, width) on the device to be used."""
    counts = torch.tensor([len(prompt) for prompt in prompts])
    before = int(counts.max())
    padded = torch.tensor([[pad_id] * (before - len(prompt)) + prompt for prompt in prompts])
    ids = torch.cat([padded.to(responses.device), responses], 1)
    return Sequences(ids, counts, lengths.cpu(), responses.shape[1])


def shuffle_batches(responses: int, passes: int, size: int) -> Tensor:
    """Rows of the micro-batches of several passes, each over all responses in an order of its own."""
    return torch.cat([torch.randperm(responses) for _ in range(passes)]).view(-1, size)


@dataclass(frozen=True, eq=False)
class PPOState:
    """What the trainer knows beyond weights, optimizer and random states.

    It is replaced as a whole and never changed, so that whoever kept the old one can go back to it.
    """

    kl_coef: float
    moments: Moments = field(default_factory=Moments)
    """Of all scores so far."""

    experience: Experience | None = None
    position: int = 0
    """Micro-batches of the experience that have been trained on."""

    sums: Mapping[str, tuple[Any, int]] = field(default_factory=dict)
    """Sums since the last log, each with the number of its terms, by the name under which it is logged."""

    @property
    def used_up(self) -> bool:
        """Whether there is nothing left to train on."""
        return self.experience is None or self.position == len(self.experience.batches)

    def note(self, figures: Mapping[str, Any]) -> PPOState:
        """With more values, of which the means are logged."""
        sums = dict(self.sums)
        for name, value in figures.items():
            total, count = sums.get(name, (0.0, 0))
            sums[name] = total + value, count + 1
        return replace(self, sums=sums)

    def report(self) -> tuple[dict[str, float], PPOState]:
        """The means since the last report, and the state from which the next ones are counted."""
        means = {name: float(total) / count for name, (total, count) in self.sums.items()}
        return means, replace(self, sums={})
