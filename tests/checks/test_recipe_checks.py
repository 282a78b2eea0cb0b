"""What the checks of the recipe stage say, beyond silence on healthy worlds and the faults they catch."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from ftrun import schemas
from ftrun.checks.catalogue import load_checks
from ftrun.checks.check import Check
from ftrun.checks.finding import Finding
from ftrun.checks.recipe.best_checkpoint_wrong import best_checkpoint_wrong
from ftrun.checks.recipe.evaluation_never_runs import evaluation_never_runs
from ftrun.checks.recipe.learning_rate_out_of_range import learning_rate_out_of_range
from ftrun.checks.recipe.model_path_missing import model_path_missing
from ftrun.checks.recipe.number_written_as_text import number_written_as_text, with_dot
from ftrun.checks.recipe.optimizer_settings_disable_learning import optimizer_settings_disable_learning
from ftrun.checks.recipe.source_missing import source_missing
from ftrun.checks.recipe.warmup_absent import warmup_absent
from ftrun.checks.recipe.wrong_columns import wrong_columns
from ftrun.checks.size import count_parameters
from ftrun.checks.stages import RecipeFailed
from ftrun.checks.testing import World, sft_full
from ftrun.runner.preflight import climb
from ftrun.schemas.settings import Kind


def _found(check: Check, world: World) -> tuple[Finding, ...]:
    report = climb(world.write(), checks=(check,), sets=world.sets, after=world.apply)
    assert report.stage == "recipe" and report.method == "sft", report.findings
    return report.findings


def _told_kinds() -> Iterator[str]:
    """The kinds of mistakes that the source of `ftrun.schemas` tells."""
    yield from get_args(Kind)
    for folder in schemas.__path__:
        for path in Path(folder).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and _name(node.func) in ("Mistake", "mistake"):
                    yield from _values(node.args[0], tree)


def _values(kind: ast.expr, tree: ast.AST) -> Iterator[str]:
    """A kind as it stands, or all that the variable is given."""
    if isinstance(kind, ast.Constant):
        yield str(kind.value)
    elif isinstance(kind, ast.Name):
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple):
                pairs = zip(node.targets[0].elts, getattr(node.value, "elts", []), strict=False)
                yield from (
                    str(value.value)
                    for target, value in pairs
                    if _name(target) == kind.id and isinstance(value, ast.Constant)
                )


def _name(node: ast.expr) -> str:
    return str(getattr(node, "id", None) or getattr(node, "attr", ""))


def test_every_kind_of_mistake_has_its_check() -> None:
    checks = {check.name for check in load_checks("recipe") if check.stage is RecipeFailed}
    assert set(_told_kinds()) == checks


@pytest.mark.parametrize("text", ["2e-5", "2E-5", "1e4", "-3e-2", "1.5e6", ".5e3", "+1E-8"])
def test_number_with_its_dot_is_the_same_number(text: str) -> None:
    number = yaml.safe_load(with_dot(text))
    assert isinstance(number, float) and number == float(text)
    assert isinstance(yaml.safe_load(text), str)


def test_numbers_written_as_text_are_named_where_they_are(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    number_written_as_text.faults[0](world)
    (finding,) = _found(number_written_as_text, world)
    assert (finding.where.line, finding.where.key) == (5, "training.learning_rate")
    assert "2.0e-5" in finding.fix and len(finding.evidence) == 2


HUB = "some-team/some-model-7b"
LORA = {"r": 8, "target_modules": "all-linear"}


@pytest.mark.parametrize(
    ("model", "training", "severity"),
    [
        ({"path": HUB}, {"learning_rate": 1e-4}, None),
        ({"path": HUB}, {"learning_rate": 5e-4}, "warning"),
        ({"path": HUB}, {"learning_rate": 1e-3}, "error"),
        ({"path": HUB, "lora": LORA}, {"learning_rate": 1e-3}, None),
        ({"path": HUB, "lora": LORA}, {"learning_rate": 5e-3}, "warning"),
        ({"path": HUB, "lora": LORA}, {"learning_rate": 1e-2}, "error"),
        ({"path": "tiny"}, {"learning_rate": 1e-2}, None),
        ({"path": "tiny"}, {"learning_rate": 5e-2}, "warning"),
        ({"path": "EleutherAI/pythia-14m"}, {"learning_rate": 1e-3}, None),
        ({"path": "TinyLlama/TinyLlama-1.1B"}, {"learning_rate": 1e-3}, "error"),
        ({"path": HUB}, {"learning_rate": 1e-5, "optim": "lion_32bit"}, None),
        ({"path": HUB}, {"learning_rate": 1e-4, "optim": "paged_lion_8bit"}, "error"),
        ({"path": HUB}, {"learning_rate": 1e-3, "optim": "adafactor"}, None),
        ({"path": HUB}, {"learning_rate": 0.1, "optim": "sgd"}, None),
        ({"path": HUB}, {"learning_rate": 0.0, "optim": "sgd"}, "error"),
        ({"path": HUB}, {"learning_rate": 1e-6}, None),
        ({"path": HUB}, {"learning_rate": 5e-7}, "warning"),
        ({"path": HUB}, {"learning_rate": 5e-8}, "error"),
    ],
)
def test_learning_rate_is_judged_by_model_way_and_optimizer(
    model: dict[str, Any], training: dict[str, Any], severity: str | None, tmp_path: Path
) -> None:
    world = sft_full(tmp_path)
    world.recipe["model"] = model
    world.recipe["training"] |= training
    findings = _found(learning_rate_out_of_range, world)
    assert [finding.severity for finding in findings] == ([severity] if severity else [])


def test_small_folder_learns_at_higher_rates(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    config = {"hidden_size": 256, "num_hidden_layers": 4, "intermediate_size": 1024, "vocab_size": 8000}
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    world.recipe["model"]["path"] = "small"
    world.recipe["training"]["learning_rate"] = 5e-3
    assert not _found(learning_rate_out_of_range, world)


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("LlamaConfig", {"num_key_value_heads": 2, "intermediate_size": 700, "tie_word_embeddings": False}),
        ("Qwen3Config", {"num_key_value_heads": 2, "intermediate_size": 700, "head_dim": 64}),
        ("GPT2Config", {}),
    ],
)
def test_parameters_are_estimated_to_a_third(kind: str, sizes: dict[str, Any]) -> None:
    import transformers

    common = {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "vocab_size": 3000}
    config = getattr(transformers, kind)(**common, **sizes)
    count = transformers.AutoModelForCausalLM.from_config(config).num_parameters()
    estimate = count_parameters(json.loads(config.to_json_string(use_diff=False)))
    assert estimate is not None and 2 / 3 < estimate / count < 3 / 2


@pytest.mark.parametrize(
    ("columns", "source", "mapping"),
    [
        ("question answer", {}, {"prompt": "question", "completion": "answer"}),
        ("id Question Answers", {}, {"prompt": "Question", "completion": "Answers"}),
        ("user_prompt model_response", {}, {"prompt": "user_prompt", "completion": "model_response"}),
        ("prompt response", {}, {"completion": "response"}),
        ("promt completion", {}, {"prompt": "promt"}),
        ("instruction input response", {}, {"output": "response"}),
        ("input output", {}, {"prompt": "input", "completion": "output"}),
        ("id conversation", {}, {"messages": "conversation"}),
        ("story", {}, {"text": "story"}),
        (
            "question context answer",
            {"columns": {"prompt": "context"}},
            {"prompt": "context", "completion": "answer"},
        ),
        ("question answer", {"format": "alpaca"}, {"instruction": "question", "output": "answer"}),
        (
            "question answer",
            {"columns": {"prompt": "questoin", "completion": "answer"}},
            {"prompt": "question", "completion": "answer"},
        ),
        (
            "question answer",
            {"columns": {"question": "prompt", "answer": "completion"}},
            {"prompt": "question", "completion": "answer"},
        ),
        ("prompt completion", {"columns": {"prompt": "question", "completion": "answer"}}, {}),
    ],
)
def test_proposed_columns_fit(
    columns: str, source: dict[str, Any], mapping: dict[str, str], tmp_path: Path
) -> None:
    world = sft_full(tmp_path)
    world.rows = [dict.fromkeys(columns.split(), "some text")]
    world.recipe["data"]["train"][0] |= source
    (finding,) = _found(wrong_columns, world)
    assert finding.patch is not None
    assert (finding.patch.key, finding.patch.value) == ("data.train.0.columns", mapping)
    world.recipe["data"]["train"][0]["columns"] = mapping
    assert not _found(wrong_columns, world)


def test_format_is_proposed_where_another_fits(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    world.recipe["data"]["train"][0]["format"] = "sharegpt"
    (finding,) = _found(wrong_columns, world)
    assert finding.patch is not None and finding.patch.value == "prompt_completion"


def test_columns_that_a_mapping_would_leave_out_are_told(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    world.rows = [{"question": "a", "context": "b", "answer": "c"}]
    (finding,) = _found(wrong_columns, world)
    assert finding.evidence == ("not used then: context",)


def test_columns_nobody_can_guess_are_asked_for(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    world.rows = [{"a": "x", "b": "y"}]
    (finding,) = _found(wrong_columns, world)
    assert finding.patch is None and "prompt" in finding.fix


def test_optional_column_may_be_missing_in_the_first_row(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    world.recipe["data"]["train"][0]["columns"] = {"tools": "functions"}
    assert not _found(wrong_columns, world)


def test_missing_source_names_the_nearest(tmp_path: Path) -> None:
    world = sft_full(tmp_path / "here")
    (tmp_path / "here" / "sets").mkdir(parents=True)
    (tmp_path / "here" / "sets" / "rooms.jsonl").touch()
    world.recipe["data"]["train"] = [{"path": "set/rooms.jsonl"}, {"path": "sets/room.jsonl"}]
    findings = _found(source_missing, world)
    assert ["`sets/rooms.jsonl`" in finding.fix for finding in findings] == [True, True]
    assert findings[1].where.key == "data.train.1.path"


def test_source_relative_to_the_command_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.jsonl").touch()
    monkeypatch.chdir(tmp_path)
    world = sft_full(tmp_path / "recipes")
    world.recipe["data"]["train"] = [{"path": "data/rows.jsonl"}, {"path": "./data/rows.jsonl"}]
    fixes = [finding.fix for finding in _found(source_missing, world)]
    assert "`../data/rows.jsonl`" in fixes[-1]


def test_ids_of_the_hub_are_left_alone(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    (tmp_path / "some-team" / "notes").mkdir(parents=True)
    world.recipe["model"] = {"path": "some-team/some-model-7b", "chat_template": "qwen3"}
    world.recipe["data"]["train"] = [{"path": "some-team/questions"}, {"path": "gsm8k"}]
    assert not _found(source_missing, world)
    assert not _found(model_path_missing, world)


def test_a_folder_where_the_command_runs_is_not_taken_for_an_id_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = sft_full(tmp_path / "recipes")
    world.recipe["model"]["path"] = "gpt2"
    assert not _found(model_path_missing, world)
    (tmp_path / "gpt2").mkdir()
    monkeypatch.chdir(tmp_path)
    (finding,) = _found(model_path_missing, world)
    assert (
        finding.fix
        == "Paths are relative to the recipe: write `../gpt2`, or run elsewhere if you mean the hub."
    )


@pytest.mark.parametrize(
    "path", ["~nobody-here/model", "x" * 300, "my model", "C:\\models\\base", "train.jsonl"]
)
def test_odd_model_paths_are_told(path: str, tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    world.recipe["model"]["path"] = path
    (finding,) = _found(model_path_missing, world)
    assert finding.severity == "error"


def test_model_folder_one_level_down_is_named(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    (tmp_path / "out" / "checkpoint-20").mkdir(parents=True)
    (tmp_path / "out" / "checkpoint-20" / "config.json").touch()
    world.recipe["model"]["path"] = "out"
    (finding,) = _found(model_path_missing, world)
    assert "`out/checkpoint-20`" in finding.fix


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        (evaluation_never_runs, {"evaluation": {"exact_match": 8}, "data": {"eval": {"fraction": 0.25}}}),
        (evaluation_never_runs, {"training": {"eval_on_start": True}, "data": {"eval": {"fraction": 0.25}}}),
        (warmup_absent, {"training": {"lr_scheduler_type": "constant_with_warmup"}}),
        (warmup_absent, {"training": {"optim": "schedule_free_adamw", "warmup_steps": 0}}),
        (optimizer_settings_disable_learning, {"training": {"weight_decay": 0.1, "adam_beta2": 0.95}}),
        (optimizer_settings_disable_learning, {"training": {"optim": "lion_32bit", "weight_decay": 1.0}}),
        (optimizer_settings_disable_learning, {"training": {"optim": "adafactor", "adam_epsilon": 0}}),
    ],
)
def test_sound_settings_are_left_alone(check: Check, changes: dict[str, Any], tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    for section, values in changes.items():
        world.recipe[section] = {**world.recipe.get(section, {}), **values}
    assert not _found(check, world)


@pytest.mark.parametrize(
    ("training", "found"),
    [
        ({}, 0),
        ({"metric_for_best_model": "loss", "greater_is_better": False}, 0),
        ({"metric_for_best_model": "eval_mean_token_accuracy"}, 0),
        ({"eval_strategy": "steps", "eval_steps": 0.1, "save_strategy": "steps", "save_steps": 0.3}, 0),
        ({"eval_strategy": "steps", "eval_steps": 50, "save_strategy": "steps", "save_steps": 100}, 0),
        ({"eval_strategy": "steps", "eval_steps": 100, "save_strategy": "steps", "save_steps": 50}, 1),
        ({"eval_strategy": "steps", "eval_steps": 0.1, "save_strategy": "steps", "save_steps": 50}, 1),
        ({"eval_strategy": "steps", "eval_steps": 9, "save_strategy": "best"}, 0),
        ({"eval_strategy": "no", "save_strategy": "best"}, 1),
        ({"metric_for_best_model": "entropy"}, 0),
        ({"metric_for_best_model": "perplexity"}, 1),
    ],
)
def test_best_checkpoint_is_judged_as_transformers_does(
    training: dict[str, Any], found: int, tmp_path: Path
) -> None:
    world = sft_full(tmp_path)
    world.recipe["data"]["eval"] = {"fraction": 0.25}
    world.recipe["training"] |= {"eval_strategy": "epoch", "load_best_model_at_end": True, **training}
    assert len(_found(best_checkpoint_wrong, world)) == found
