"""Sampled responses: what is drawn, where it ends, and that neither padding nor a batch changes it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ftrun.runner.tiny import locate

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(str(locate())).eval()


def make_sampling(**changes: Any) -> Any:
    from ftrun.runner.ppo.generation import Sampling

    settings: dict[str, Any] = {
        "response_length": 8,
        "min_response_length": 0,
        "stop_ids": frozenset({3}),
        "pad_id": 0,
        "temperature": 1.0,
        "top_p": 1.0,
    }
    return Sampling(**settings | changes)


def make_prompts(count: int) -> list[list[int]]:
    draws = torch.Generator().manual_seed(1)
    return [torch.randint(5, 1000, (3 + 2 * i,), generator=draws).tolist() for i in range(count)]


def test_greedy_responses_are_those_of_generate_for_each_prompt_alone(model: Any) -> None:
    from ftrun.runner.ppo.generation import answer_prompts

    prompts = make_prompts(5)
    expected = [
        model.generate(
            input_ids=torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=8,
            eos_token_id=3,
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        for prompt in prompts
    ]
    # A token of the first answer ends answers, so that rows end at different places and leave the batch.
    stop = expected[0][1]
    found = answer_prompts(
        model,
        prompts,
        make_sampling(stop_ids=frozenset({3, stop}), temperature=0.0),
        batch_size=3,
        device=CPU,
    )
    for row, answer in enumerate(expected):
        end = next((i + 1 for i, token in enumerate(answer) if token in (3, stop)), 8)
        assert found.ids[row].tolist() == answer[:end] + [0] * (found.ids.shape[1] - end)
        assert int(found.lengths[row]) == end
        assert bool(found.ended[row]) == (answer[end - 1] in (3, stop))
    assert len(set(found.lengths.tolist())) > 1


def test_no_response_stops_before_its_least_length_or_goes_on_behind_its_end(model: Any) -> None:
    from ftrun.runner.ppo.generation import answer_prompts

    stops = frozenset(range(3, 1024, 2))
    torch.manual_seed(0)
    found = answer_prompts(
        model,
        make_prompts(6) * 6,
        make_sampling(stop_ids=stops, min_response_length=3),
        batch_size=64,
        device=CPU,
    )
    assert int(found.lengths.min()) == 3
    for row, length in zip(found.ids.tolist(), found.lengths.tolist(), strict=True):
        assert not stops.intersection(row[: length - 1])
        assert not any(row[length:])
    assert found.ended.float().mean() > 0.8


def test_tokens_are_drawn_with_their_probabilities() -> None:
    from ftrun.runner.ppo.generation import choose_tokens

    torch.manual_seed(0)
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -torch.inf]])
    stops = torch.tensor([3])
    count = 40_000

    def shares(may_stop: bool, **changes: Any) -> torch.Tensor:
        drawn = choose_tokens(logits.expand(count, -1), stops, may_stop, make_sampling(**changes))
        return torch.bincount(drawn, minlength=5) / count

    for temperature in (1.0, 0.5):
        expected = torch.softmax(logits[0] / temperature, 0)
        torch.testing.assert_close(shares(True, temperature=temperature), expected, atol=0.01, rtol=0)
    # A stop token that may not come yet has its probability given to the others.
    without = torch.softmax(logits[0].masked_fill(torch.arange(5) == 3, -torch.inf), 0)
    torch.testing.assert_close(shares(False), without, atol=0.01, rtol=0)
    # The two most probable tokens have 0.64 and 0.24: together the least that has 0.8.
    kept = torch.softmax(logits[0, :2], 0)
    torch.testing.assert_close(shares(True, top_p=0.8)[:2], kept, atol=0.01, rtol=0)
    assert not shares(True, top_p=0.8)[2:].any()
    assert shares(True, top_p=0.0)[0] == 1.0
    assert shares(True)[4] == 0.0


def test_a_sampled_padding_token_ends_nothing(model: Any) -> None:
    from ftrun.runner.ppo.generation import generate, pad_left

    damaged = model
    weight = damaged.lm_head.weight.data
    kept = weight.clone()
    try:
        weight[0] = weight.abs().max() * 0  # every logit of the padding token is 0
        sampling = make_sampling(temperature=1e4)  # all tokens are about as probable
        torch.manual_seed(0)
        ids, mask = pad_left(make_prompts(4) * 64, 0, CPU)
        found = generate(damaged, ids, mask, sampling)
    finally:
        weight.copy_(kept)
    inside = (found.ids == 0) & (torch.arange(found.ids.shape[1]) < found.lengths[:, None])
    assert inside.any()
    assert all(3 in row.tolist() for row, ended in zip(found.ids, found.ended, strict=True) if ended)
