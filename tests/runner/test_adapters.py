"""An adapter folder as a model: merged to a plain folder, and never lost on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from ftrun.checks.catalogue import load_checks
from ftrun.checks.stages import AtData, AtModel
from ftrun.checks.testing import World, dpo_full, dpo_lora, sft_full, sft_lora
from ftrun.runner import tiny
from ftrun.runner.adapters import find_base, merge_adapter
from ftrun.runner.preflight import Ascent, ascend
from ftrun.runner.weights import digest_model
from ftrun.schemas.errors import ModelError


def save_adapter(folder: Path, task: str = "CAUSAL_LM") -> Path:
    """An adapter on `tiny` whose every matrix is drawn, so that it changes every output."""
    base = tiny.locate()
    kind = AutoModelForCausalLM if task == "CAUSAL_LM" else AutoModelForSequenceClassification
    kwargs: dict[str, Any] = {} if task == "CAUSAL_LM" else {"num_labels": 1}
    torch.manual_seed(1)
    adapter: Any = get_peft_model(
        kind.from_pretrained(base, **kwargs),
        LoraConfig(r=4, target_modules="all-linear", task_type=task, init_lora_weights=False),
    )
    adapter.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = "{{ messages[0].content }} of this adapter"
    tokenizer.save_pretrained(folder)
    return folder


def outputs(model: Any, tokenizer: Any) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        logits: torch.Tensor = model(**tokenizer("What colour is the lamp?", return_tensors="pt")).logits
    return logits


def climb(world: World, adapter: Path, stage: type[Any] = AtModel) -> Ascent:
    world.recipe["model"]["path"] = str(adapter)
    return ascend(
        world.write(),
        checks=load_checks("model"),
        folder=lambda file: world.folder / "out",
        upto=stage,
        needed=stage,
    )


def test_an_adapter_merges_to_the_model_that_it_is(tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter")
    folder = merge_adapter(str(adapter), tmp_path / "runs")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template.endswith("of this adapter")
    tuned = outputs(AutoPeftModelForCausalLM.from_pretrained(adapter), tokenizer)
    merged = outputs(AutoModelForCausalLM.from_pretrained(folder), tokenizer)
    base = outputs(AutoModelForCausalLM.from_pretrained(tiny.locate()), tokenizer)
    torch.testing.assert_close(merged, tuned, atol=1e-4, rtol=1e-4)
    assert (merged - base).abs().max() > 0.1

    written = Path(folder, "model.safetensors").stat().st_mtime_ns
    assert merge_adapter(str(adapter), tmp_path / "runs") == folder, "the same content merges once"
    assert Path(folder, "model.safetensors").stat().st_mtime_ns == written
    assert [one.name for one in (tmp_path / "runs" / "merged").iterdir()] == [Path(folder).name]


def test_an_adapter_without_a_tokenizer_has_that_of_its_base(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    adapter = save_adapter(tmp_path / "adapter")
    for file in tmp_path.glob("adapter/*token*"):
        file.unlink()
    (adapter / "chat_template.jinja").unlink(missing_ok=True)
    at = climb(world, adapter).at
    assert isinstance(at, AtModel)
    assert at.tokenizer.get_vocab() == AutoTokenizer.from_pretrained(tiny.locate()).get_vocab()


def test_a_reward_adapter_merges_with_its_head(tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", "SEQ_CLS")
    torch.manual_seed(3)
    state = torch.get_rng_state()
    folder = merge_adapter(str(adapter), tmp_path / "runs")
    assert torch.equal(torch.get_rng_state(), state), (
        "a run draws the same whether or not it is the one that merges"
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    merged = AutoModelForSequenceClassification.from_pretrained(folder)
    assert merged.config.num_labels == 1 and merged.config.pad_token_id == tokenizer.pad_token_id
    head = next(one for name, one in merged.named_parameters() if name.endswith("score.weight"))
    from safetensors.torch import load_file

    saved = load_file(adapter / "adapter_model.safetensors")
    assert torch.equal(head, saved["base_model.model.score.weight"])


def test_the_order_of_a_set_changes_no_digest(tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter")
    before = digest_model(adapter)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(
        json.dumps(config | {"target_modules": config["target_modules"][::-1]})
    )
    assert digest_model(adapter) == before
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 7}))
    assert digest_model(adapter) != before


def test_a_plain_model_stays_where_it_is(tmp_path: Path) -> None:
    assert merge_adapter(str(tiny.locate()), tmp_path) == str(tiny.locate())
    assert merge_adapter("owner/model", tmp_path) == "owner/model"
    assert not list(tmp_path.iterdir())


def test_the_data_stage_reads_the_base_and_the_template_and_merges_nothing(tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter")
    at: Any = climb(sft_full(tmp_path / "world"), adapter, AtData).at
    assert isinstance(at, AtData)
    assert at.model_config.model_type == "llama" and at.tokenizer.chat_template.endswith("of this adapter")
    assert find_base(str(adapter)) == str(tiny.locate())
    assert not (tmp_path / "world" / "runs").exists()


@pytest.mark.parametrize("make", [sft_full, sft_lora, dpo_full, dpo_lora])
def test_training_starts_from_the_tuned_weights(make: Any, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter")
    ascent = climb(make(tmp_path / "world"), adapter)
    assert ascent.report.ok
    at: Any = ascent.at
    tuned = outputs(AutoPeftModelForCausalLM.from_pretrained(adapter), at.tokenizer)
    torch.testing.assert_close(outputs(at.model, at.tokenizer), tuned, atol=1e-4, rtol=1e-4)
    assert any(parameter.requires_grad for parameter in at.model.parameters())
    if make is dpo_full:
        torch.testing.assert_close(outputs(at.trainer.ref_model, at.tokenizer), tuned, atol=1e-4, rtol=1e-4)
    if make in (sft_lora, dpo_lora):
        with at.model.disable_adapter():
            torch.testing.assert_close(outputs(at.model, at.tokenizer), tuned, atol=1e-4, rtol=1e-4)


def test_a_second_adapter_reloads_as_it_was_trained(tmp_path: Path) -> None:
    at: Any = climb(sft_lora(tmp_path / "world"), save_adapter(tmp_path / "adapter")).at
    with torch.no_grad():
        for name, parameter in at.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    at.trainer.save_model(str(tmp_path / "second"))
    reloaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "second")
    assert torch.equal(outputs(reloaded, at.tokenizer), outputs(at.model, at.tokenizer))
    folder = merge_adapter(str(tmp_path / "second"), tmp_path / "runs")
    twice = outputs(AutoModelForCausalLM.from_pretrained(folder), at.tokenizer)
    torch.testing.assert_close(twice, outputs(at.model, at.tokenizer), atol=1e-4, rtol=1e-4)


def test_an_adapter_without_its_base_says_so(tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": str(tmp_path / "gone")})
    )
    with pytest.raises(ModelError, match="gone"):
        merge_adapter(str(adapter), tmp_path / "runs")
    assert not list((tmp_path / "runs").glob("merged/*"))
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    with pytest.raises(ModelError, match="names no base model"):
        find_base(str(adapter))
