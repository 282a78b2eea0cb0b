"""Exports: the written folder is the trained model, and a folder that is not is never left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from ftrun.checks.testing import sft_lora
from ftrun.runner import tiny
from ftrun.runner.adapters import merge_adapter
from ftrun.runner.chat import chat
from ftrun.runner.export import export, prove_folder, write_folder
from ftrun.runner.printing.text import make_console
from ftrun.runner.proof import find_end_of_turn, golden_ids, observe, prove_merge
from ftrun.runner.result import find_result, load_result, load_tokenizer
from ftrun.runner.run import run_recipe
from ftrun.runner.speakers import Settings
from ftrun.schemas.errors import NotProven

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def save_base(folder: Path, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """A model like `tiny`, drawn, with its tokenizer."""
    torch.manual_seed(3)
    LlamaForCausalLM(LlamaConfig(**{**tiny.CONFIG, **changes})).to(dtype).save_pretrained(folder)
    for name in TOKENIZER:
        shutil.copyfile(tiny.locate() / name, folder / name)
    return folder


def save_adapter(folder: Path, base: Path, strength: float = 0.05, **changes: Any) -> Path:
    """An adapter with both its matrices drawn, so that it does something, and the tokenizer."""
    scores = changes.get("task_type") == "SEQ_CLS"
    kwargs = {"num_labels": 1} if scores else {}
    auto = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    config = LoraConfig(
        **{"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **changes}
    )
    model: Any = get_peft_model(auto.from_pretrained(base, dtype=torch.float32, **kwargs), config)
    torch.manual_seed(4)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=strength)
    model.save_pretrained(folder)
    for name in TOKENIZER:
        shutil.copyfile(base / name, folder / name)
    return folder


def logits(model: Any) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(torch.arange(40)[None]).logits[0].float()  # type: ignore[no-any-return]


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


PLAIN = {"config.json", "generation_config.json", "model.safetensors", *TOKENIZER}


def test_an_adapter_of_a_run_becomes_a_plain_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    console = make_console()
    sets = ["training.max_steps=2", "training.learning_rate=0.01"]
    ignore = {"TRAIN001": "two steps are to be felt"}
    assert run_recipe(sft_lora(tmp_path).write(), sets=sets, ignore=ignore, out=console, err=console) == 0
    run, target = tmp_path / "runs" / "healthy-1", tmp_path / "out" / "merged"
    capsys.readouterr()
    assert export("healthy", target, uri=f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}") == 0
    lines = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert lines[1:6] == ["merge", "weights", "logits", "tokenizer", "stop"]
    assert names(target) == PLAIN and names(target.parent) == {"merged"}
    base = AutoModelForCausalLM.from_pretrained(tiny.locate())
    before = logits(base)
    trained = logits(PeftModel.from_pretrained(base, run / "model"))
    written = logits(AutoModelForCausalLM.from_pretrained(target))
    assert torch.allclose(trained, written, atol=1e-4)
    assert (trained - before).abs().max() > 100 * (trained - written).abs().max()
    answers = []
    for place in (run, target):
        assert chat(str(place), Settings(max_new_tokens=8), prompt="What colour is the lamp?") == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]


def test_a_full_model_is_written_as_it_is(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", torch.bfloat16)
    assert export(str(base), tmp_path / "out") == 0
    ours, theirs = load_file(base / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert theirs["lm_head.weight"].dtype == torch.bfloat16
    assert names(tmp_path / "out") == PLAIN


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_type_can_be_chosen_and_rounds_once(tmp_path: Path, dtype: str) -> None:
    base = save_base(tmp_path / "base", torch.bfloat16)
    adapter = save_adapter(tmp_path / "adapter", base)
    assert export(str(adapter), tmp_path / "out", dtype=dtype) == 0
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(written[name], merged[name].to(getattr(torch, dtype))) for name in merged)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == dtype
    assert export(str(adapter), tmp_path / "own") == 0
    assert load_file(tmp_path / "own" / "model.safetensors")["lm_head.weight"].dtype == torch.bfloat16


def change_template(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace("<|im_start|>assistant", "<|im_start|>helper"))


def change_stop(folder: Path) -> None:
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": 1}))


def change_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][3, 5] += 1e-6
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def drop_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_end(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": "<|im_start|>"}))


FAULTS: list[tuple[Callable[[Path], None], str]] = [
    (change_template, "other ids"),
    (change_stop, r"training stops at <\|im_end\|> \(3\)"),
    (change_weight, "1 of 21 tensors"),
    (drop_weight, "not those that were to be written"),
    (change_end, "eos_token_id of the tokenizer"),
]


@pytest.mark.parametrize(("fault", "reason"), FAULTS, ids=lambda one: getattr(one, "__name__", ""))
def test_a_faulty_folder_is_caught(tmp_path: Path, fault: Callable[[Path], None], reason: str) -> None:
    result = find_result(str(save_base(tmp_path / "base")))
    tokenizer, model, folder = load_tokenizer(result), load_result(result), tmp_path / "out"
    trained = observe(model, tokenizer, scores=False)
    write_folder(model, tokenizer, result, folder, "float32")
    assert len(list(prove_folder(folder, result, tokenizer, model, trained, "float32"))) == 4
    fault(folder)
    with pytest.raises(NotProven, match=reason):
        list(prove_folder(folder, result, tokenizer, model, trained, "float32"))


def test_a_disturbed_merge_is_caught(tmp_path: Path) -> None:
    result = find_result(str(save_adapter(tmp_path / "adapter", save_base(tmp_path / "base"))))
    tokenizer, model = load_tokenizer(result), load_result(result)
    trained = observe(model, tokenizer, scores=False)
    merged = model.merge_and_unload()
    assert prove_merge(trained, observe(merged, tokenizer, scores=False))
    # One of 14 matrices, off by a two-hundredth of what the adapter adds to it.
    weight = merged.model.layers[1].self_attn.v_proj.weight
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base").model.layers[1].self_attn.v_proj.weight
    weight.data += 0.005 * (weight.data - base.data)
    with pytest.raises(NotProven, match="merged and unmerged differ"):
        prove_merge(trained, observe(merged, tokenizer, scores=False))


def test_a_strong_adapter_is_no_fault(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", num_hidden_layers=6)
    for strength, dtype in ((0.1, "bfloat16"), (0.3, "float32")):
        adapter = save_adapter(tmp_path / dtype, base, strength)
        assert export(str(adapter), tmp_path / f"{dtype}-out", dtype=dtype) == 0


def test_a_failed_proof_leaves_what_was_there(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"][7] = 1e6  # more than float16 holds
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NotProven, match="float16 does not hold these weights"):
        export(str(base), tmp_path / "out", dtype="float16")
    assert names(tmp_path) == {"base"}
    assert export(str(base), tmp_path / "out") == 0
    kept = (tmp_path / "out" / "model.safetensors").read_bytes()
    with pytest.raises(NotProven):
        export(str(base), tmp_path / "out", dtype="float16", force=True)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == kept
    assert names(tmp_path) == {"base", "out"}


def test_a_folder_that_is_in_use_is_replaced_only_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, out = save_base(tmp_path / "base"), tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    assert export(str(base), out) == 2
    assert "--force" in capsys.readouterr().err and names(out) == {"notes.txt"}
    assert export(str(base), out, force=True) == 0
    assert names(out) == PLAIN and names(tmp_path) == {"base", "out"}
    for target in (base, tmp_path, out / "config.json"):
        assert export(str(base), target, force=True) == 2
    assert names(base) == PLAIN
    assert export(str(tmp_path / "nowhere"), tmp_path / "other") == 2
    assert names(tmp_path) == {"base", "out"}


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`", "ignore:.*tie_word_embeddings")
@pytest.mark.parametrize("module", ["lm_head", "embed_tokens"])
def test_tied_weights_are_untied_where_the_adapter_tells_them_apart(tmp_path: Path, module: str) -> None:
    base = save_base(tmp_path / "base", tie_word_embeddings=True)
    adapter = save_adapter(tmp_path / "adapter", base, target_modules=[module])
    assert export(str(adapter), tmp_path / "out") == 0
    trained = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    for folder in (tmp_path / "out", merge_adapter(str(adapter), tmp_path / "runs")):
        written = AutoModelForCausalLM.from_pretrained(folder)
        assert torch.allclose(logits(trained), logits(written), atol=1e-5)


def test_tied_weights_stay_tied_otherwise(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", tie_word_embeddings=True)
    assert export(str(save_adapter(tmp_path / "adapter", base)), tmp_path / "out") == 0
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")


def test_a_reward_adapter_is_exported_with_its_head(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save_base(tmp_path / "base", torch.bfloat16)
    adapter = save_adapter(tmp_path / "adapter", base, task_type="SEQ_CLS", modules_to_save=["score"])
    assert export(str(adapter), tmp_path / "out", dtype="float32") == 0
    told = capsys.readouterr().out
    assert "scores:" in told and "padding:" in told and "stop:" not in told
    trained = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
    trained = PeftModel.from_pretrained(trained, adapter).eval()
    written = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    assert written.config.num_labels == 1
    ids = torch.arange(5, 30)[None]
    padded = torch.nn.functional.pad(ids, (0, 6), value=0)
    with torch.no_grad():
        score = trained(ids).logits
        assert torch.allclose(score, written(ids).logits, atol=1e-5)
        batch = written(padded, attention_mask=(padded != 0).long()).logits
    assert torch.allclose(score, batch, atol=1e-5)


def test_a_reward_model_without_its_padding_is_caught(tmp_path: Path) -> None:
    torch.manual_seed(5)
    LlamaForSequenceClassification(LlamaConfig(**{**tiny.CONFIG, "num_labels": 1})).save_pretrained(
        tmp_path / "scorer"
    )
    for name in TOKENIZER:
        shutil.copyfile(tiny.locate() / name, tmp_path / "scorer" / name)
    assert export(str(tmp_path / "scorer"), tmp_path / "out") == 0
    result = find_result(str(tmp_path / "scorer"))
    tokenizer, model = load_tokenizer(result), load_result(result)
    trained = observe(model, tokenizer, scores=True)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    (tmp_path / "out" / "config.json").write_text(json.dumps({**config, "pad_token_id": 9}))
    with pytest.raises(NotProven):
        list(prove_folder(tmp_path / "out", result, tokenizer, model, trained, "float32"))


def test_generation_ends_where_the_template_ends_an_answer(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    change_end(base)  # the template still ends an answer with <|im_end|>, 3
    config = {"eos_token_id": 1, "do_sample": False, "temperature": 0.6}
    (base / "generation_config.json").write_text(json.dumps(config))
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert find_end_of_turn(tokenizer) == 3 and tokenizer.eos_token_id == 2
    assert export(str(base), tmp_path / "out") == 0
    written = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert written["eos_token_id"] == [1, 2, 3]
    assert written["temperature"] == 0.6


def test_templates_and_tokenizers_without_one_give_golden_ids() -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny.locate())
    assert len(golden_ids(tokenizer)) == 4
    text: str = tokenizer.chat_template
    tokenizer.chat_template = "{{ raise_exception('no system') if messages[0].role == 'system' }}" + text
    assert len(golden_ids(tokenizer)) == 3
    tokenizer.chat_template = "{{ raise_exception('nothing at all') }}"
    with pytest.raises(NotProven, match="nothing at all"):
        golden_ids(tokenizer)
    tokenizer.chat_template = None
    assert find_end_of_turn(tokenizer) is None and golden_ids(tokenizer)


def test_a_base_that_has_moved_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = save_base(tmp_path / "base")
    adapter = save_adapter(tmp_path / "run" / "model", base)
    base.rename(tmp_path / "moved")
    assert export(str(adapter), tmp_path / "out") == 2
    assert "name it with --base" in capsys.readouterr().err
    assert export(str(adapter), tmp_path / "out", base=str(tmp_path / "moved")) == 0
    record = f"model: {{path: {tmp_path / 'moved'}}}\n"
    (tmp_path / "run" / "recipe.resolved.yaml").write_text(record)
    assert export(str(tmp_path / "run"), tmp_path / "again") == 0
    small = save_base(tmp_path / "small", hidden_size=64)
    assert export(str(adapter), tmp_path / "third", base=str(small)) == 2
    assert "does not fit" in capsys.readouterr().err


def test_what_cannot_be_merged_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = save_base(tmp_path / "base")
    prompt: Any = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), prompt).save_pretrained(tmp_path / "prompt")
    adapter = save_adapter(tmp_path / "adapter", base)
    config = json.loads((base / "config.json").read_text())
    quantised = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (base / "config.json").write_text(json.dumps({**config, "quantization_config": quantised}))
    assert export(str(adapter), tmp_path / "out") == 2
    assert "is stored quantised" in capsys.readouterr().err
    (base / "config.json").write_text(json.dumps(config))
    assert export(str(tmp_path / "prompt"), tmp_path / "out") == 2
    assert "cannot be merged" in capsys.readouterr().err
    stacked = save_adapter(tmp_path / "stacked", base)
    path = stacked / "adapter_config.json"
    above = {**json.loads(path.read_text()), "base_model_name_or_path": str(adapter)}
    path.write_text(json.dumps(above))
    assert export(str(stacked), tmp_path / "out") == 2
    assert f"ftrun export {adapter} DEST" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
