"""PPO from a recipe: dry step, reward and value models, real prompts, and what a run tells."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from ftrun.checks.data.data_cannot_be_prepared import data_cannot_be_prepared
from ftrun.checks.model.model_does_not_load import model_does_not_load
from ftrun.checks.stages import AtData, AtModel, ModelFailed
from ftrun.checks.testing import World, ppo_chat, ppo_full, ppo_lora
from ftrun.runner.methods import ppo
from ftrun.runner.preflight import ascend
from ftrun.runner.step import take_step
from ftrun.runner.tiny import locate
from ftrun.schemas.errors import ModelError

Make = Callable[[Path], World]

QUICK = {"save_strategy": "no", "max_steps": 4, "warmup_steps": 0, "response_length": 6}
DEMO = Path(__file__).parents[3] / "shared" / "data" / "dpo_en_demo.json"


def build(make: Make, folder: Path, stage: type = AtModel, **sections: Mapping[str, Any]) -> Any:
    world = make(folder)
    world.recipe["training"] |= QUICK
    for name, section in sections.items():
        world.recipe[name] = {**world.recipe.get(name, {}), **section}
    tellers = (data_cannot_be_prepared, model_does_not_load)
    ascent = ascend(
        world.write(), checks=tellers, folder=lambda file: folder / "run", needed=stage, upto=stage
    )
    assert isinstance(ascent.at, stage), ascent.report.findings
    return ascent.at


def save_scorer(folder: Path) -> Path:
    """A reward model as training leaves one."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

    set_seed(3)
    AutoModelForSequenceClassification.from_pretrained(str(locate()), num_labels=1).save_pretrained(folder)
    AutoTokenizer.from_pretrained(str(locate())).save_pretrained(folder)
    return folder


def weights(at: AtModel) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in at.trainer.model.named_parameters()}


@pytest.mark.parametrize(
    ("make", "training"),
    [
        pytest.param(ppo_full, {"use_score_scaling": True}, id="full"),
        pytest.param(ppo_lora, {"gradient_checkpointing": True}, id="lora-checkpointing-adaptive"),
        pytest.param(ppo_full, {"bf16": True, "use_cpu": True}, id="bf16"),
    ],
)
def test_a_dry_step_leaves_no_trace(make: Make, training: dict[str, Any], tmp_path: Path) -> None:
    plain = build(make, tmp_path / "plain", training={**QUICK, **training})
    plain.trainer.train()
    looked = build(make, tmp_path / "looked", training={**QUICK, **training})
    before, state = weights(looked), looked.trainer.ppo
    step = take_step(looked).step
    assert step.failed is None, step.error
    assert looked.trainer.ppo is state
    figures = looked.trainer.seen["first_update"]
    assert float(figures["policy/ratio"]) == 1.0 and float(figures["policy/approx_kl"]) == 0.0
    assert all(torch.equal(value, before[name]) for name, value in weights(looked).items())
    looked.trainer.train()
    expected = weights(plain)
    assert all(torch.equal(value, expected[name]) for name, value in weights(looked).items())


def test_the_value_model_may_start_from_the_reward_model(tmp_path: Path) -> None:
    scorer = save_scorer(tmp_path / "scorer")
    at = build(ppo_full, tmp_path / "run", reward={"models": [str(scorer)]}, value={"path": "reward"})
    (loaded,) = at.trainer.reward.models
    value = dict(at.trainer.model.value.named_parameters())
    assert all(torch.equal(value[name], p) for name, p in loaded.model.named_parameters())
    at.trainer.train()
    assert not torch.equal(at.trainer.model.value.score.weight, loaded.model.score.weight)
    assert "score/models" in at.trainer.state.log_history[0]


def test_a_model_without_a_trained_head_is_no_reward_model(tmp_path: Path) -> None:
    world = ppo_full(tmp_path)
    world.recipe["reward"]["models"] = ["tiny"]
    ascent = ascend(
        world.write(), checks=(model_does_not_load,), folder=lambda file: tmp_path / "run", upto=AtModel
    )
    assert "has no score head" in ascent.report.findings[0].message


def test_an_adapter_folder_is_where_policy_reference_and_value_model_start(tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(str(locate()))
    tuned: Any = get_peft_model(base, LoraConfig(target_modules="all-linear", init_lora_weights=False))
    tuned.save_pretrained(tmp_path / "tuned")
    AutoTokenizer.from_pretrained(str(locate())).save_pretrained(tmp_path / "tuned")
    at = build(ppo_lora, tmp_path / "run", model={"path": str(tmp_path / "tuned")})
    ids = torch.arange(5, 25)[None]
    tuned.eval()
    at.trainer.model.eval()
    with torch.no_grad():
        expected = tuned(input_ids=ids).logits
        torch.testing.assert_close(at.model(input_ids=ids).logits, expected, rtol=1e-3, atol=1e-4)
        with at.trainer.refer() as reference:
            torch.testing.assert_close(reference(input_ids=ids).logits, expected, rtol=1e-3, atol=1e-4)
    at.trainer.train()
    at.trainer.save_model(str(tmp_path / "model"))
    config = json.loads((tmp_path / "model" / "adapter_config.json").read_text())
    saved_base = AutoModelForCausalLM.from_pretrained(config["base_model_name_or_path"])
    loaded = PeftModel.from_pretrained(saved_base, str(tmp_path / "model")).eval()
    at.trainer.model.eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=ids).logits, at.model(input_ids=ids).logits)


def test_a_run_tells_what_its_answers_were_worth_before_and_after(tmp_path: Path) -> None:
    at = build(ppo_chat, tmp_path, evaluation={"prompts": 3})
    at.trainer.train()
    metrics, table = ppo.ask(at)
    assert {"eval/score_before", "eval/score_after", "eval/kl"} < metrics.keys()
    assert metrics["eval/kl"] > 0
    assert [row["step"] for row in table] == [0] * 3 + [4] * 3 + [4] * 3
    for step, name in ((0, "eval/score_before"), (4, "eval/score_after")):
        scores = [row["score"] for row in table[:3] if step == 0] or [row["score"] for row in table[-3:]]
        assert metrics[name] == pytest.approx(sum(scores) / 3)
    assert table[0]["prompt"] == [{"role": "user", "content": at.eval[0].example["prompt"][0]["content"]}]
    # The start answers alike before training and after it.
    fresh = build(ppo_chat, tmp_path, evaluation={"prompts": 3})
    assert fresh.trainer.examine()[1] == [row for row in table if row["step"] == 0]


def test_stop_tokens_are_looked_up_and_wrong_ones_refused(tmp_path: Path) -> None:
    at = build(ppo_full, tmp_path, stage=AtData, training={**QUICK, "stop_tokens": ["\u0120team"]})
    assert at.tokenizer.convert_tokens_to_ids("\u0120team") in at.stop_ids
    assert at.tokenizer.eos_token_id in at.stop_ids
    with pytest.raises(ModelError, match="is no token"):
        ppo._find_stops(
            at.recipe.model_copy(update={"training": {"stop_tokens": ["two words"]}}), at.tokenizer
        )


def test_the_steps_that_are_announced_are_those_that_are_made(tmp_path: Path) -> None:
    at = build(ppo_full, tmp_path, training={**QUICK, "max_steps": -1, "num_train_epochs": 1.5})
    at.trainer.train()
    assert at.steps == at.trainer.state.global_step == 24


@pytest.mark.slow
def test_the_shipped_recipe_finds_out_what_pays(tmp_path: Path) -> None:
    from ftrun.runner.printing.text import make_console
    from ftrun.runner.run import run_recipe

    console = make_console()
    path = Path(__file__).parents[2] / "recipes" / "ppo.yaml"
    assert run_recipe(path, sets=[f"output={tmp_path}"], ignore={}, out=console, err=console) == 0
    (report,) = tmp_path.glob("*/preflight.json")
    assert not json.loads(report.read_text())["findings"]
    (answers,) = tmp_path.glob("*/ftrun/answers.jsonl")
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    before, after = rows[:150], rows[-150:]
    assert sum(row["overlap"] for row in before) / 150 < 0.05
    assert sum(row["overlap"] for row in after) / 150 > 0.3
    words = [row["answer"].split() for row in after]
    assert sum(len(set(one)) / max(1, len(one)) for one in words) / 150 > 0.6


@pytest.mark.skipif(not DEMO.is_file(), reason="the demo pairs are not here")
def test_prompts_of_real_pairs_are_answered(tmp_path: Path) -> None:
    world = ppo_full(tmp_path)
    world.recipe["training"] |= {**QUICK, "max_prompt_length": 256}
    world.recipe["data"]["train"] = [
        {"path": str(DEMO), "format": "prompts", "columns": {"prompt": "conversations"}}
    ]
    ascent = ascend(
        world.write(),
        checks=(data_cannot_be_prepared, model_does_not_load),
        folder=lambda file: tmp_path / "run",
        needed=AtModel,
        upto=AtModel,
    )
    assert isinstance(ascent.at, AtModel), ascent.report.findings
    assert {"chosen", "rejected"} <= ascent.at.train[0].example["columns"].keys()
    assert int(ascent.at.train.lengths.max()) <= 256 and len(ascent.at.train) > 50
    ascent.at.trainer.train()
    assert not isinstance(ascent.at, ModelFailed)
    assert ascent.at.trainer.state.global_step == 4
