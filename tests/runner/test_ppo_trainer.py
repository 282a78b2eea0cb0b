"""What holds of the PPO trainer, on the tiny model."""

from __future__ import annotations

import functools
import gc
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ftrun.runner.launching.sharding import allow_cpu
from ftrun.runner.tiny import locate

STOP = 3
LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.3, "target_modules": "all-linear"}


def share_of_e(completions: Sequence[str], **columns: Any) -> list[float]:
    return [text.count("e") / (len(text) + 1) for text in completions]


@functools.cache
def locate_micro() -> str:
    """A folder with a model of one narrow layer and the tokenizer of `tiny`."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = tempfile.mkdtemp()
    config = AutoConfig.from_pretrained(
        str(locate()), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
    )
    config.num_key_value_heads, config.head_dim = 2, 16
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(str(locate())).save_pretrained(folder)
    return folder


def make_trainer(folder: Path, *, lora: bool = False, reward: Any = share_of_e, **settings: Any) -> Any:
    """A trainer of 24 prompts of different lengths, with rollouts of 8."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        PrinterCallback,
        set_seed,
    )

    from ftrun.runner.ppo.config import PPOConfig
    from ftrun.runner.ppo.networks import start_value_head
    from ftrun.runner.ppo.rewards import RewardSum
    from ftrun.runner.ppo.trainer import PPOTrainer

    chosen: dict[str, Any] = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": 4,
        "num_mini_batches": 2,
        "num_ppo_epochs": 2,
        "response_length": 8,
        "learning_rate": 1e-3,
        "num_train_epochs": 1,
        "save_strategy": "no",
        "logging_strategy": "no",
        "temperature": 0.8,
        "kl_coef": 0.1,
        "seed": 5,
    } | settings
    args = PPOConfig(**chosen)
    allow_cpu(args)
    micro = locate_micro()
    set_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(micro)
    policy: Any = AutoModelForCausalLM.from_pretrained(micro)
    value: Any = AutoModelForSequenceClassification.from_pretrained(micro, num_labels=1)
    start_value_head(value)
    if lora:
        policy = get_peft_model(policy, LoraConfig(task_type="CAUSAL_LM", **LORA))
        value = get_peft_model(value, LoraConfig(task_type="SEQ_CLS", **LORA))
    rows = [tokenizer(f"What is {i} + {7 * i}?" + " please" * (i % 5))["input_ids"] for i in range(24)]
    trainer = PPOTrainer(
        policy,
        value,
        RewardSum(functions={"test": reward}),
        args,
        Dataset.from_dict({"input_ids": rows}),
        tokenizer,
        # A fifth of the vocabulary stops, so that lengths differ.
        frozenset(range(STOP, 1024, 5)),
        eval_dataset=Dataset.from_dict({"input_ids": rows[:4]}),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    return trainer


def first_batch(trainer: Any) -> dict[str, Tensor]:
    loader = trainer.get_train_dataloader()
    batch: dict[str, Tensor] = next(iter(loader))
    loader.end()
    return batch


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_fresh_policy_has_the_ratio_1_and_the_kl_0(tmp_path: Path, lora: bool, accumulation: int) -> None:
    trainer = make_trainer(tmp_path, lora=lora, gradient_accumulation_steps=accumulation)
    batch = first_batch(trainer)
    for _ in range(trainer.args.micro_batches):
        loss, figures = trainer.compute_loss(trainer.model, batch, return_outputs=True)
        assert loss.requires_grad
        assert float(figures["policy/ratio"]) == 1.0
        assert float(figures["policy/approx_kl"]) == 0.0
    means, _ = trainer.ppo.report()
    assert means["objective/kl"] == means["objective/kl_stderr"] == means["objective/non_score_reward"] == 0.0
    assert len(set(trainer.ppo.experience.sequences.lengths.tolist())) > 2


def test_padding_and_what_follows_the_end_carry_nothing(tmp_path: Path) -> None:
    from ftrun.runner.ppo.losses import lose

    trainer = make_trainer(tmp_path)
    trainer.compute_loss(trainer.model, first_batch(trainer))
    experience = trainer.ppo.experience
    outside = ~experience.sequences.response_mask
    assert outside.any()
    for name in ("logprobs", "values", "advantages", "returns"):
        assert not getattr(experience, name)[outside].any(), name
    # Whatever stands behind the end, and however wide the padding is, the loss is the same.
    losses = []
    for noise in (False, True):
        sequences = experience.sequences
        if noise:
            ids = sequences.ids.clone()
            ids[:, -sequences.width :][outside] = 77
            wider = torch.nn.functional.pad(ids, (8, 8), value=78)
            sequences = replace(sequences, ids=wider, width=sequences.width + 8)
        tables = {
            name: torch.nn.functional.pad(
                torch.where(outside, 1e3 if noise else 0.0, getattr(experience, name)),
                (0, 8 if noise else 0),
                value=1e3,
            )
            for name in ("logprobs", "values", "advantages", "returns")
        }
        changed = replace(experience, sequences=sequences, **tables)
        losses.append(float(lose(trainer.model, changed, 0, trainer.args)[0].detach()))
    assert losses[0] == losses[1]


def test_log_probabilities_are_those_of_each_sequence_alone_at_the_sampling_temperature(
    tmp_path: Path,
) -> None:
    trainer = make_trainer(tmp_path)
    batch = first_batch(trainer)
    trainer.compute_loss(trainer.model, batch)
    experience = trainer.ppo.experience
    sequences = experience.sequences
    for row in range(len(sequences)):
        length, prompt = int(sequences.lengths[row]), int(sequences.prompts[row])
        start = sequences.ids.shape[1] - sequences.width
        alone = sequences.ids[row, start - prompt : start + length][None]
        with torch.no_grad():
            logits = trainer.model.policy(input_ids=alone).logits[0, prompt - 1 : -1]
        expected = torch.log_softmax(logits / 0.8, -1).gather(-1, alone[0, prompt:, None])[:, 0]
        torch.testing.assert_close(experience.logprobs[row, :length], expected, rtol=1e-4, atol=1e-5)


def test_every_pass_goes_over_all_responses_in_minibatches_of_its_own_order(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, num_ppo_epochs=3)
    trainer.compute_loss(trainer.model, first_batch(trainer))
    batches = trainer.ppo.experience.batches
    assert batches.shape == (6, 4)
    passes = batches.view(3, 8)
    assert all(sorted(one.tolist()) == list(range(8)) for one in passes)
    assert len({tuple(one.tolist()) for one in passes}) == 3


def test_each_minibatch_is_one_optimizer_step(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, num_ppo_epochs=3)
    trainer.train()
    # 24 prompts are 3 rollouts of 8; each has 3 passes over 2 minibatches.
    assert trainer.state.global_step == trainer.state.max_steps == 18
    assert trainer.optimizer.state[next(trainer.model.parameters())]["step"] == 18


def test_accumulation_changes_memory_and_not_the_gradient(tmp_path: Path) -> None:
    whole = make_trainer(tmp_path, per_device_train_batch_size=8, num_mini_batches=1)
    batch = first_batch(whole)
    whole.compute_loss(whole.model, batch).backward()
    divided = make_trainer(
        tmp_path, per_device_train_batch_size=2, num_mini_batches=1, gradient_accumulation_steps=4
    )
    experience = whole.ppo.experience
    divided.ppo = replace(
        whole.ppo, position=0, experience=replace(experience, batches=experience.batches.view(-1, 2))
    )
    for _ in range(4):
        divided.compute_loss(divided.model, batch).backward()
    for (name, one), other in zip(whole.model.named_parameters(), divided.model.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_policy_and_value_model_get_no_gradient_of_the_others_loss(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, vf_coef=0.0)
    trainer.compute_loss(trainer.model, first_batch(trainer)).backward()
    assert not any(p.grad.any() for p in trainer.model.value.parameters() if p.grad is not None)
    assert all(p.grad.any() for p in trainer.model.policy.parameters() if p.ndim > 1)
    trainer.model.zero_grad()
    trainer.args.vf_coef = 1.0
    experience = trainer.ppo.experience
    trainer.ppo = replace(
        trainer.ppo, position=0, experience=replace(experience, advantages=experience.advantages * 0)
    )
    trainer.compute_loss(trainer.model, first_batch(trainer)).backward()
    assert not any(p.grad.any() for p in trainer.model.policy.parameters() if p.grad is not None)
    assert all(p.grad.any() for p in trainer.model.value.parameters() if p.ndim > 1)


def test_policy_value_model_and_reference_share_nothing(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    sets = [
        {p.untyped_storage().data_ptr() for p in network.parameters()}
        for network in (trainer.model.policy, trainer.model.value, trainer.reference)
    ]
    assert len(set.union(*sets)) == sum(map(len, sets))


@pytest.mark.parametrize("lora", [False, True])
def test_the_reference_never_changes_and_the_policy_does(tmp_path: Path, lora: bool) -> None:
    from ftrun.runner.ppo.networks import judge_tokens

    trainer = make_trainer(tmp_path, lora=lora)
    batch = first_batch(trainer)
    inputs = batch["input_ids"], batch["attention_mask"], 4, 1.0

    def judge() -> tuple[Tensor, Tensor]:
        trainer.model.eval()
        with torch.no_grad(), trainer.refer() as reference:
            frozen = judge_tokens(reference, *inputs)[1]
        with torch.no_grad():
            return frozen, judge_tokens(trainer.model.policy, *inputs)[1]

    before = judge()
    assert torch.equal(*before)
    trainer.train()
    after = judge()
    assert torch.equal(after[0], before[0])
    assert not torch.equal(after[1], before[1])


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("stop", [4, 6], ids=["between rollouts", "within a rollout"])
def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path, lora: bool, stop: int) -> None:
    settings: dict[str, Any] = {
        "lora": lora,
        "kl_target": 1.0,
        "kl_horizon": 50,
        "use_score_scaling": True,
        "save_strategy": "steps",
        "save_steps": stop,
        "logging_strategy": "steps",
        "logging_steps": 5,
    }
    whole = make_trainer(tmp_path, **settings)
    whole.train()
    resumed = make_trainer(tmp_path, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{stop}"))
    assert resumed.state.global_step == whole.state.global_step == 12
    assert same(weights(resumed.model), weights(whole.model))
    assert resumed.ppo.kl_coef == whole.ppo.kl_coef != 0.1
    logged = [
        # The Trainer itself forgets the losses since its last log.
        [entry | {"loss": 0} for entry in trainer.state.log_history if "loss" in entry]
        for trainer in (whole, resumed)
    ]
    assert logged[0] == logged[1]


def test_an_evaluation_changes_nothing(tmp_path: Path) -> None:
    plain = make_trainer(tmp_path)
    plain.train()
    watched = make_trainer(tmp_path, eval_strategy="steps", eval_steps=3)
    watched.train()
    assert same(weights(watched.model), weights(plain.model))
    evaluations = [entry for entry in watched.state.log_history if "eval_score" in entry]
    assert len(evaluations) == 4
    assert all(entry["eval_kl"] > 0 for entry in evaluations)


@pytest.mark.parametrize("lora", [False, True])
def test_the_first_update_takes_what_the_rollout_computed(tmp_path: Path, lora: bool) -> None:
    ended = []
    calls = []
    # With checkpointing the rollout keeps no graph, and the first update computes it.
    for checkpointing in (True, False):
        trainer = make_trainer(tmp_path, lora=lora, gradient_checkpointing=checkpointing)
        count = [0]
        trainer.model.policy.register_forward_hook(lambda *_, count=count: count.__setitem__(0, count[0] + 1))
        trainer.train()
        ended.append(weights(trainer.model))
        calls.append(count[0])
    assert same(*ended)
    rollouts = 3
    assert lora or calls[0] - calls[1] == rollouts


def test_sequences_of_like_length_are_read_together_as_they_are_alone() -> None:
    from ftrun.runner.ppo.experience import Sequences, join, read_grouped

    lengths = [3, 60, 5, 44, 2, 58, 4, 50]
    responses = torch.arange(8 * 6).view(8, 6) + 500
    sequences = join(
        [list(range(1, n + 1)) for n in lengths], responses, torch.tensor([6, 1, 2, 3, 6, 4, 5, 6]), 0
    )
    groups = sequences.group()
    assert len(groups) > 1
    assert sum(len(rows) * sequences.take(rows).ids.shape[1] for rows in groups) < sequences.ids.numel()
    widths = []

    def read(ids: Tensor, mask: Tensor, width: int) -> tuple[Tensor, ...]:
        widths.append(ids.shape[1])
        return ids[:, -width:].float(), (ids * mask).sum(1, keepdim=True).expand(-1, width)

    tokens, sums = read_grouped(read, sequences)
    assert len(set(widths)) == len(groups)
    inside = sequences.response_mask
    assert torch.equal(tokens[inside], responses.float()[inside])
    whole = (sequences.ids * sequences.mask).sum(1, keepdim=True).expand_as(sums)
    assert torch.equal(sums[inside], whole[inside])
    alike = Sequences(sequences.ids[:1].repeat(4, 1), torch.full((4,), 3), torch.full((4,), 6), 6)
    assert len(alike.group()) == 1


def test_the_clipping_of_gradients_acts_on_both_networks_together(tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path,
        optim="sgd",
        max_grad_norm=1e-3,
        learning_rate=1.0,
        lr_scheduler_type="constant",
        max_steps=1,
        vf_coef=1.0,
    )
    before = weights(trainer.model)
    trainer.train()
    moved = [after - before[name] for name, after in weights(trainer.model).items()]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(one) for one in moved]))
    assert float(norm) == pytest.approx(1e-3, rel=0.02)


def test_what_is_saved_is_the_policy_as_it_answers(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    trainer = make_trainer(tmp_path, max_steps=2)
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert same(weights(loaded), weights(trainer.model.policy))
    assert not (tmp_path / "model" / "value").exists()
    assert not (tmp_path / "model" / "training_args.bin").exists()


def test_a_saved_lora_policy_is_an_adapter_that_answers_alike(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    trainer = make_trainer(tmp_path, lora=True, max_steps=2)
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    base = AutoModelForCausalLM.from_pretrained(locate_micro())
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "model"))
    ids = torch.arange(20)[None] + 5
    trainer.model.eval()
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, trainer.model.policy(input_ids=ids).logits)


def test_nothing_of_the_size_of_the_vocabulary_is_kept(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.compute_loss(trainer.model, first_batch(trainer))
    kept = trainer.ppo.experience.as_tensors().values()
    assert all(one.ndim <= 2 and one.shape[-1] < 1024 for one in kept if isinstance(one, Tensor))


def test_garbage_is_not_collected_by_hand_while_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, ...]] = []

    def collect(*generation: int) -> int:
        calls.append(generation)
        return 0

    monkeypatch.setattr(gc, "collect", collect)
    trainer = make_trainer(tmp_path)
    trainer.train()
    # Once, when the Trainer begins; there are three rollouts of four updates.
    assert len(calls) <= 1


def test_the_best_checkpoint_comes_back(tmp_path: Path) -> None:
    from ftrun.runner.ppo.checkpoint import load_networks

    trainer = make_trainer(
        tmp_path,
        eval_strategy="steps",
        eval_steps=4,
        save_strategy="steps",
        save_steps=4,
        load_best_model_at_end=True,
        metric_for_best_model="eval_score",
        greater_is_better=False,
    )
    trainer.train()
    scores = {
        entry["step"]: entry["eval_score"] for entry in trainer.state.log_history if "eval_score" in entry
    }
    best = min(scores, key=lambda step: scores[step])
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{best}")
    other = make_trainer(tmp_path)
    load_networks(other.model, tmp_path / f"checkpoint-{best}")
    assert same(weights(trainer.model), weights(other.model))


def test_the_optimizer_holds_exactly_what_is_trained_of_both(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, lora=True)
    trainer.create_optimizer()
    held = [id(p) for group in trainer.optimizer.param_groups for p in group["params"]]
    trained = {
        id(p)
        for network in (trainer.model.policy, trainer.model.value)
        for p in network.parameters()
        if p.requires_grad
    }
    assert len(held) == len(trained) and set(held) == trained


def test_checkpointed_activations_give_the_same_gradient(tmp_path: Path) -> None:
    plain = make_trainer(tmp_path, max_steps=1)
    plain.train()
    saving = make_trainer(tmp_path, max_steps=1, gradient_checkpointing=True)
    saving.train()
    assert saving.model.policy.is_gradient_checkpointing
    for one, other in zip(plain.model.parameters(), saving.model.parameters(), strict=True):
        torch.testing.assert_close(other, one)


def brevity(completions: Sequence[str]) -> list[float]:
    return [-len(text) / 10 for text in completions]


def test_it_learns(tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path,
        reward=brevity,
        per_device_train_batch_size=12,
        num_train_epochs=10,
        learning_rate=3e-2,
        kl_coef=0.01,
        logging_strategy="steps",
    )
    trainer.train()
    scores = [entry["score/mean"] for entry in trainer.state.log_history if "score/mean" in entry]
    assert len(scores) == 10
    assert sum(scores[-3:]) > 0.7 * sum(scores[:3])
