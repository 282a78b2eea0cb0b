"""DPO: rows that are TRL's own, a reference that is the policy's start, every loss, and what a run tells."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from ftrun.checks.data.data_cannot_be_prepared import data_cannot_be_prepared
from ftrun.checks.model.model_does_not_load import model_does_not_load
from ftrun.checks.reference import collate, log_probs, reference_of, without_dropout
from ftrun.checks.stages import AtModel
from ftrun.checks.testing import World, dpo_chat, dpo_full, dpo_lora
from ftrun.runner.dpo.held_out import Choice
from ftrun.runner.methods import dpo
from ftrun.runner.preflight import ascend
from ftrun.runner.printing.text import make_console
from ftrun.runner.run import run_recipe
from ftrun.runner.step import take_step
from ftrun.runner.tiny import locate
from ftrun.runner.tracking.journal import read_journal
from ftrun.schemas.settings import read_table

Make = Callable[[Path], World]
Pairs = list[dict[str, Any]]

LORA = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}
QUICK = {"logging_steps": 1, "save_strategy": "no", "max_steps": 2, "warmup_steps": 0}


def build(
    make: Make,
    folder: Path,
    training: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    stage: type = AtModel,
) -> Any:
    world = make(folder)
    world.recipe["training"] |= {**QUICK, **(training or {})}
    world.recipe["model"] |= model or {}
    tellers = (data_cannot_be_prepared, model_does_not_load)
    ascent = ascend(
        world.write(), checks=tellers, folder=lambda file: folder / "run", needed=stage, upto=stage
    )
    assert isinstance(ascent.at, stage), ascent.report.findings
    return ascent.at


# Rows


def plain(row: int) -> tuple[str, str, str]:
    """Prompts and answers of lengths that max_length cuts here, there and in the prompt."""
    prompt = f"Question {row}: " + "why is the lamp in the hall green? " * (row % 7 * 3) + "\n"
    return prompt, f"Because it was painted {row} times." * (1 + row % 4), "I do not know." * (1 + row % 5)


def explicit(rows: int) -> tuple[Pairs, Pairs]:
    pairs: Pairs = [
        {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        for prompt, chosen, rejected in map(plain, range(rows))
    ]
    return pairs, pairs


def implicit(rows: int) -> tuple[Pairs, Pairs]:
    pairs = [
        {"chosen": prompt + chosen, "rejected": prompt + rejected}
        for prompt, chosen, rejected in map(plain, range(rows))
    ]
    return pairs, pairs


def said(*texts: str) -> list[dict[str, str]]:
    return [
        {"role": ("user", "assistant")[i % 2], "content": text.strip() or "-"} for i, text in enumerate(texts)
    ]


def chats(rows: int) -> tuple[Pairs, Pairs]:
    pairs = []
    for prompt, chosen, rejected in map(plain, range(rows)):
        turns = said("Hello", "What can I do?", prompt) if len(prompt) % 2 else said(prompt)
        pairs.append({"prompt": turns, "chosen": said("", chosen)[1:], "rejected": said("", rejected)[1:]})
    return pairs, pairs


def whole_chats(rows: int) -> tuple[Pairs, Pairs]:
    pairs = [
        {side: pair["prompt"] + pair[side] for side in ("chosen", "rejected")} for pair in chats(rows)[0]
    ]
    return pairs, pairs


def sharegpt(rows: int) -> tuple[Pairs, Pairs]:
    theirs = chats(rows)[0]
    names = {"user": "human", "assistant": "gpt"}

    def turn(message: dict[str, str]) -> dict[str, str]:
        return {"from": names[message["role"]], "value": message["content"]}

    ours = [
        {
            "conversations": [turn(message) for message in pair["prompt"]],
            "chosen": turn(pair["chosen"][0]),
            "rejected": turn(pair["rejected"][0]),
        }
        for pair in theirs
    ]
    return ours, theirs


def make_like_trl(pairs: Pairs, folder: Path, **settings: Any) -> DPOTrainer:
    return DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(str(locate())),
        args=DPOConfig(output_dir=str(folder), report_to="none", use_cpu=True, bf16=False, **settings),
        train_dataset=Dataset.from_list(pairs),
        processing_class=AutoTokenizer.from_pretrained(str(locate())),
    )


@pytest.mark.filterwarnings("ignore")  # TRL warns of keep_end, and of settings that nobody here made
@pytest.mark.parametrize("mode", ["keep_start", "keep_end"])
@pytest.mark.parametrize("form", [explicit, implicit, chats, whole_chats, sharegpt])
def test_batches_are_those_of_trl(
    form: Callable[[int], tuple[Pairs, Pairs]], mode: str, tmp_path: Path
) -> None:
    ours, theirs = form(24)
    settings = {"max_length": 160, "truncation_mode": mode}

    def make(folder: Path) -> World:
        world = dpo_full(folder)
        world.rows = ours
        return world

    at = build(make, tmp_path, settings)
    trainer = make_like_trl(theirs, tmp_path, **settings)
    wanted = trainer.data_collator(list(trainer.train_dataset))
    batch = at.trainer.data_collator(list(at.train_dataset))
    assert batch.keys() == wanted.keys()
    assert all(torch.equal(batch[name], wanted[name]) for name in wanted)

    # The rows that the checks read and `preview` shows are what the collator makes.
    lengths = batch["attention_mask"].sum(1).tolist()
    count = len(lengths) // 2
    assert len(at.train) == 2 * count
    assert len(set(lengths)) > 4 and max(lengths) == 160
    if mode == "keep_start":
        assert 0 < len(at.train.dropped) < len(at.train), "of some pairs only the prompt would be left"
    for i in range(2 * count):
        row = at.train[2 * (i % count) + i // count]
        length = lengths[i]
        assert batch["input_ids"][i, :length].tolist() == row.ids.tolist()
        trained = batch["completion_mask"][i, :length].bool()
        assert (torch.from_numpy(row.labels.copy()) != -100).tolist() == trained.tolist()


# Reference


def same(at: AtModel, rows: int = 4) -> bool:
    """Whether policy and reference give the first rows the same log-probabilities, to the last bit."""
    batch = collate(at.trainer, at.trainer.train_dataset, 0, rows)
    with without_dropout(at.trainer.model):
        ours = log_probs(at.trainer, at.trainer.model, batch)
        with reference_of(at.trainer) as reference:
            assert reference is not None
            theirs = log_probs(at.trainer, reference, batch)
    return torch.equal(ours, theirs)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter folder as a LoRA run writes it."""
    folder = tmp_path_factory.mktemp("tuned")
    training = {"learning_rate": 1e-2, "max_steps": 3}
    at = build(dpo_lora, folder, training)
    at.trainer.train()
    at.trainer.save_model(str(folder / "adapter"))
    return folder / "adapter"


@pytest.mark.parametrize(
    "model", [{}, {"dtype": "bfloat16", "attention": "eager"}], ids=["plain", "bf16-eager"]
)
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("start", ["tiny", "adapter"])
def test_reference_is_the_frozen_start_of_the_policy(
    start: str, lora: Any, model: dict[str, Any], tuned: Path, tmp_path: Path
) -> None:
    model = {**model, "lora": lora} if lora else model
    at = build(dpo_full, tmp_path, {}, {**model, "path": "tiny" if start == "tiny" else str(tuned)})
    assert same(at)
    with reference_of(at.trainer) as reference:
        assert reference is not None and reference.config._attn_implementation == (
            model.get("attention") or at.model.config._attn_implementation
        )
        base = AutoModelForCausalLM.from_pretrained(str(locate()), dtype=model.get("dtype") or torch.float32)
        ids = torch.tensor([[5, 6, 7]])
        far = (reference(input_ids=ids).logits - base(input_ids=ids).logits).abs().max()
    assert (far > 0.1) if start == "adapter" else (far < 1e-6 or "attention" in model)
    if lora is None:
        own = at.trainer.ref_model
        assert own.dtype == at.model.dtype
        assert not any(p.requires_grad for p in own.parameters())
        assert not any(module.training for module in own.modules())
        before = {name: p.clone() for name, p in own.named_parameters()}
        at.trainer.train()
        assert all(torch.equal(p, before[name]) for name, p in own.named_parameters())
    else:
        assert at.trainer.ref_model is None
        at.trainer.train()
    assert not same(at)


@pytest.mark.parametrize("make", [dpo_full, dpo_lora])
def test_reference_that_the_recipe_names(make: Make, tuned: Path, tmp_path: Path) -> None:
    at = build(make, tmp_path, {}, {"reference": str(tuned)})
    assert not same(at)
    named = build(dpo_full, tmp_path / "named", {}, {"path": str(tuned)})
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(at.trainer.ref_model(input_ids=ids).logits, named.model(input_ids=ids).logits)
    assert not any(p.requires_grad for p in at.trainer.ref_model.parameters())


@pytest.mark.filterwarnings("ignore")  # datasets' progress
@pytest.mark.parametrize("make", [dpo_chat, dpo_lora])
def test_precomputed_log_probabilities_train_alike(make: Make, tmp_path: Path) -> None:
    losses = []
    for precompute in (False, True):
        at = build(make, tmp_path / str(precompute), {"precompute_ref_log_probs": precompute, "max_steps": 4})
        assert at.trainer.ref_model is None or not precompute
        at.trainer.train()
        logs = at.trainer.state.log_history
        losses.append([log[key] for log in logs for key in ("loss", "eval_kl") if key in log])
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    assert losses[0][-1] < 0.69


# Losses and settings

LOSSES = read_table("dpo").fields["loss_type"]["items"]["enum"]


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains(loss: str, tmp_path: Path) -> None:
    settings = {"loss_type": loss, **({"label_smoothing": 1e-3} if loss == "exo_pair" else {})}
    at = build(dpo_full, tmp_path, settings)
    assert at.trainer.loss_types == [loss]
    before = at.model.get_output_embeddings().weight.clone()
    at.trainer.train()
    logs = [log for log in at.trainer.state.log_history if "loss" in log]
    assert len(logs) == 2 and all(log["grad_norm"] > 0 for log in logs)
    assert not torch.equal(before, at.model.get_output_embeddings().weight)


def test_losses_are_summed_with_their_weights(tmp_path: Path) -> None:
    def first_loss(name: str, settings: dict[str, Any]) -> float:
        step = take_step(build(dpo_full, tmp_path / name, settings)).step
        assert step.loss is not None, step.error
        return step.loss

    one, other = (first_loss(loss, {"loss_type": loss}) for loss in ("sigmoid", "sft"))
    both = first_loss("both", {"loss_type": ["sigmoid", "sft"], "loss_weights": [0.5, 2.0]})
    assert both == pytest.approx(0.5 * one + 2 * other, rel=1e-5)


def test_every_setting_reaches_trl(tmp_path: Path) -> None:
    """Those of DPOConfig itself; the others are the same for all methods."""
    settings = {
        "loss_type": ["robust", "sigmoid"],
        "loss_weights": [1.0, 0.1],
        "label_smoothing": 0.2,
        "ld_alpha": 0.5,
        "f_divergence_type": "js_divergence",
        "f_alpha_divergence_coef": 0.7,
        "beta": 0.3,
        "use_weighting": True,
        "discopop_tau": 0.07,
        "sync_ref_model": True,
        "ref_model_mixup_alpha": 0.4,
        "ref_model_sync_steps": 1,
        "disable_dropout": False,
        "pad_to_multiple_of": 8,
        "precompute_ref_batch_size": 3,
        "max_length": 96,
        "truncation_mode": "keep_end",
    }
    at = build(dpo_full, tmp_path, settings)
    assert {name: getattr(at.trainer.args, name) for name in settings} == settings
    assert (at.trainer.beta, at.trainer.ld_alpha) == (0.3, 0.5)
    assert collate(at.trainer, at.trainer.train_dataset, 0, 2)["input_ids"].shape[1] % 8 == 0
    at.trainer.train()


# The dry step, and what a run tells


@pytest.mark.parametrize(
    ("make", "training", "model"),
    [
        pytest.param(dpo_full, {"gradient_accumulation_steps": 2}, {}, id="full-accumulation"),
        pytest.param(
            dpo_lora,
            {"disable_dropout": False, "gradient_checkpointing": True},
            {"lora": {**LORA, "lora_dropout": 0.2}},
            id="lora-dropout-checkpointing",
        ),
        pytest.param(dpo_chat, {"eval_strategy": "steps", "eval_steps": 2}, {}, id="chat-eval"),
        pytest.param(dpo_full, {"precompute_ref_log_probs": True}, {}, id="precomputed"),
        pytest.param(dpo_full, {"sync_ref_model": True, "ref_model_sync_steps": 1}, {}, id="synced"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_training_is_the_same_after_a_dry_step(
    make: Make, training: dict[str, Any], model: dict[str, Any], tmp_path: Path
) -> None:
    ends = []
    for looked in (False, True):
        at = build(make, tmp_path / str(looked), {**training, "max_steps": 4}, model)
        if looked:
            step = take_step(at).step
            assert step.error is None and step.changed
        at.trainer.train()
        logs = [
            {key: value for key, value in log.items() if not key.endswith(("runtime", "per_second"))}
            for log in at.trainer.state.log_history
        ]
        ends.append((logs, {name: p.detach().clone() for name, p in at.model.named_parameters()}))
    (logs, weights), (logs_after, weights_after) = ends
    assert logs_after == logs
    assert all(torch.equal(p, weights_after[name]) for name, p in weights.items())


def held_out(make: Make, **evaluation: int) -> Make:
    def with_pairs(folder: Path) -> World:
        world = make(folder)
        world.recipe["data"]["eval"] = {"fraction": 0.25}
        world.recipe["evaluation"] = evaluation
        return world

    return with_pairs


@pytest.mark.parametrize("make", [dpo_full, dpo_lora])
def test_divergence_is_the_sum_over_the_vocabulary(make: Make, tmp_path: Path) -> None:
    training = {"eval_strategy": "steps", "eval_steps": 2, "max_steps": 4, "learning_rate": 1e-2}
    at = build(held_out(make), tmp_path, {**training, "per_device_eval_batch_size": 3})
    at.trainer.train()
    logged = [log["eval_kl"] for log in at.trainer.state.log_history if "eval_kl" in log]
    assert logged[0] == 0.0 and len(logged) == 3
    assert all(value > 0 for value in logged[1:])

    sums, tokens = [], 0
    base = AutoModelForCausalLM.from_pretrained(str(locate()))
    at.model.eval()
    for i in range(3):
        row = at.eval_dataset[i]
        for answer in (row["chosen_ids"], row["rejected_ids"]):
            ids = torch.tensor([row["prompt_ids"] + answer])
            with torch.no_grad():
                ours, theirs = (m(input_ids=ids).logits[0].log_softmax(-1) for m in (at.model, base))
            each = (ours.exp() * (ours - theirs)).sum(-1)[len(row["prompt_ids"]) - 1 : -1]
            sums.append(float(each.sum()))
            tokens += len(each)
    divergence = at.trainer.measure_divergence()
    assert divergence.per_answer == pytest.approx(sum(sums) / 6, rel=1e-4)
    assert divergence.per_token == pytest.approx(sum(sums) / tokens, rel=1e-4)
    assert logged[-1] == divergence.per_answer


@pytest.mark.parametrize("make", [dpo_full, dpo_lora])
def test_what_is_asked_at_the_end(make: Make, tmp_path: Path) -> None:
    asking = held_out(make, generate=3, max_new_tokens=8)
    at = build(asking, tmp_path, {"max_steps": 6, "learning_rate": 1e-3, "per_device_eval_batch_size": 3})
    start, _ = dpo.ask(at)
    assert start["eval/kl"] == start["eval/preference_margin"] == start["eval/preference_accuracy"] == 0.0
    at.trainer.train()
    evaluated = at.trainer.evaluate()
    metrics, table = dpo.ask(at)
    assert metrics["eval/preference_margin"] > 0
    # TRL averages over batches, of which the last is smaller: equal batches make both the same.
    assert metrics["eval/preference_accuracy"] == evaluated["eval_rewards/accuracies"] == 1.0
    assert metrics["eval/kl"] == evaluated["eval_kl"]
    assert metrics.keys() >= {
        "eval/chosen_generated_before",
        "eval/chosen_generated",
        "eval/rejected_generated",
    }
    assert [row["chosen"] for row in table] == [at.eval[2 * i].example["completion"] for i in range(3)]
    base = AutoModelForCausalLM.from_pretrained(str(locate()))
    prompt = at.eval_dataset[0]["prompt_ids"]
    given = base.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=8)[0, len(prompt) :]
    assert table[0]["before"] == at.tokenizer.decode(given, skip_special_tokens=True)


def test_answers_are_compared_with_both_sides() -> None:
    choices = [
        Choice("p", "good", "bad", "bad", " good\n"),
        Choice("p", "good", "bad", "else", "good"),
        Choice("p", "good", "bad", "bad", "bad"),
        Choice("p", "good", "bad", "good", "goods"),
    ]
    assert dpo._shares(choices) == {
        "eval/chosen_generated_before": 0.25,
        "eval/chosen_generated": 0.5,
        "eval/rejected_generated_before": 0.5,
        "eval/rejected_generated": 0.25,
    }


@pytest.mark.parametrize(
    "training",
    [
        pytest.param({}, id="fixed"),
        pytest.param({"sync_ref_model": True, "ref_model_sync_steps": 2}, id="moving"),
        pytest.param({"precompute_ref_log_probs": True}, id="precomputed"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_resumed_run_ends_as_one_that_was_not_stopped(training: dict[str, Any], tmp_path: Path) -> None:
    training = {**training, "max_steps": 6, "save_strategy": "steps", "save_steps": 3, "eval_strategy": "no"}
    whole = build(dpo_chat, tmp_path / "whole", training)
    whole.trainer.train()
    resumed = build(dpo_chat, tmp_path / "resumed", training)
    checkpoint = tmp_path / "whole" / "run" / "checkpoints" / "checkpoint-3"
    resumed.trainer.train(resume_from_checkpoint=str(checkpoint))
    ours, theirs = dict(whole.model.named_parameters()), dict(resumed.model.named_parameters())
    assert all(torch.equal(p, theirs[name]) for name, p in ours.items())
    assert whole.trainer.measure_divergence() == resumed.trainer.measure_divergence()
    starts = [log for log in resumed.trainer.state.log_history if "eval_kl" in log]
    assert len(starts) == 1, "the divergence of the start is that of the first run, and is not logged again"


def test_a_run_leaves_its_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = held_out(dpo_chat, generate=2, max_new_tokens=4)(tmp_path)
    world.recipe["training"] |= {"logging_steps": 2, "num_train_epochs": 1}
    console = make_console()
    assert run_recipe(world.write(), sets=[], ignore={}, out=console, err=console) == 0
    folder = tmp_path / "runs" / "healthy-1"
    assert (folder / "model" / "model.safetensors").is_file()
    journal = read_journal(folder / "metrics.jsonl")
    first = next(entry for entry in journal if "eval/kl" in entry.metrics)
    assert (first.step, first.metrics["eval/kl"]) == (0, 0.0)
    names = {name for entry in journal for name in entry.metrics}
    sides = {f"rewards/{name}" for name in ("chosen", "rejected", "margins", "accuracies")}
    assert names >= {f"{folder}/{name}" for folder in ("train", "eval") for name in sides | {"logps/chosen"}}
    assert names >= {"eval/preference_accuracy", "eval/preference_margin", "eval/chosen_generated_before"}
    (answers,) = folder.glob("ftrun/answers.jsonl")
    assert len(answers.read_text().splitlines()) == 2
    told = capsys.readouterr()
    assert "preference accuracy: " in told.out + told.err
    assert "chosen generated before: 0.0% of 2 held-out rows" in told.out + told.err


REAL = Path(__file__).parents[3] / "shared" / "data" / "dpo_en_demo.json"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not REAL.is_file(), reason="the real data is not here")
@pytest.mark.parametrize("mode", ["keep_start", "keep_end"])
def test_real_pairs_are_those_of_trl(mode: str, tmp_path: Path) -> None:
    rows = json.loads(REAL.read_text())[:60]
    roles = {"human": "user", "gpt": "assistant", "system": "system"}

    def turns(messages: Pairs) -> Pairs:
        return [{"role": roles[one["from"]], "content": one["value"]} for one in messages]

    theirs = [
        {
            "prompt": turns(row["conversations"]),
            "chosen": turns([row["chosen"]]),
            "rejected": turns([row["rejected"]]),
        }
        for row in rows
    ]
    settings = {"max_length": 512, "truncation_mode": mode}

    def make(folder: Path) -> World:
        world = dpo_full(folder)
        world.rows = rows
        return world

    at = build(make, tmp_path, settings)
    trainer = make_like_trl(theirs, tmp_path, **settings)
    wanted = trainer.data_collator(list(trainer.train_dataset))
    batch = at.trainer.data_collator(list(at.train_dataset))
    assert all(torch.equal(batch[name], wanted[name]) for name in wanted)
    assert {len(row["conversations"]) for row in rows} > {1}
