"""The tables of settings say what the installed libraries say, and values are held against them."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from ftrun.schemas.settings import Complaint, Table, defaults, judge, read_table

ROOT = Path(__file__).parents[2]
TABLES = ROOT / "schemas" / "ftrun" / "schemas" / "tables"


def need_versions(table: str) -> None:
    """Skip where the table was made from other versions than those installed."""
    for package, made_from in json.loads((TABLES / f"{table}.json").read_text("utf-8"))["made_from"].items():
        try:
            installed = version(package)
        except PackageNotFoundError:
            pytest.skip(f"{package} is not installed")
        if installed != made_from:
            pytest.skip(f"the table is made from {package} {made_from}, and {installed} is installed")


def config_of(table: str) -> Any:
    need_versions(table)
    if table == "sft":
        from trl import SFTConfig

        return SFTConfig
    from peft import LoraConfig

    return LoraConfig


def complain(table: str, **values: Any) -> Complaint:
    usable, complaints = judge(values, read_table(table))
    assert len(complaints) == 1, complaints
    assert usable == {}
    return complaints[0]


def test_generated_files_are_fresh() -> None:
    need_versions("sft")
    need_versions("lora")
    command = [sys.executable, str(ROOT / ".ci" / "generate.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", ["sft", "lora"])
def test_every_field_is_either_accepted_or_refused(name: str) -> None:
    fields = {field.name for field in dataclasses.fields(config_of(name)) if field.init}
    table = read_table(name)
    assert table.fields.keys() | table.refused.keys() == fields
    assert not table.fields.keys() & table.refused.keys()
    assert all(fragment["description"] for fragment in table.fields.values())
    assert all(reason.endswith(".") for reason in table.refused.values())


@pytest.mark.parametrize("name", ["sft", "lora"])
def test_defaults_are_the_libraries_own_and_fit_their_table(name: str) -> None:
    config, table = config_of(name), read_table(name)
    values = defaults(table)
    for field in dataclasses.fields(config):
        if field.name in table.fields:
            factory = field.default_factory
            default = field.default if factory is dataclasses.MISSING else factory()
            assert values[field.name] == default and type(values[field.name]) is type(default), field.name
    assert judge(values, table) == (values, [])


def test_defaults_do_not_share_what_can_change() -> None:
    defaults(read_table("lora"))["rank_pattern"]["q_proj"] = 4
    assert defaults(read_table("lora"))["rank_pattern"] == {}


def test_peft_takes_the_nested_configs_as_mappings() -> None:
    """PEFT drops unknown keys of these mappings in silence, so the table has to know them all."""
    config = config_of("lora")
    for name in ("velora_config", "use_bdlora"):
        fragment = read_table("lora").fields[name]
        nested = {key: inside["default"] for key, inside in fragment["properties"].items()}
        made = getattr(config(target_modules=["q_proj"], **{name: nested}), name)
        assert dataclasses.asdict(made) == nested


@pytest.mark.parametrize("name", ["eva", "corda", "lora_ga", "loftq"])
def test_initialisations_whose_config_is_refused_are_no_choice(name: str) -> None:
    assert complain("lora", init_lora_weights=name).kind == "out_of_range"
    assert complain("lora", **{f"{name}_config": {}}).kind == "refused_key"


@pytest.mark.parametrize(
    ("table", "written", "meant"),
    [
        ("sft", "learnin_rate", "learning_rate"),
        ("sft", "lr", "learning_rate"),
        ("sft", "epochs", "num_train_epochs"),
        ("sft", "batch-size", "per_device_train_batch_size"),
        ("sft", "max_seq_length", "max_length"),
        ("lora", "rank", "r"),
        ("lora", "lora_r", "r"),
        ("lora", "alpha", "lora_alpha"),
        ("lora", "target_module", "target_modules"),
    ],
)
def test_an_unknown_key_is_told_its_neighbour(table: str, written: str, meant: str) -> None:
    complaint = complain(table, **{written: 1})
    assert complaint.kind == "unknown_key"
    assert f"`{written}`" in complaint.message
    assert complaint.fix == f"Did you mean `{meant}`?"


def test_a_refused_key_says_what_to_use_even_when_misspelt() -> None:
    refused = complain("sft", output_dir="here")
    assert (refused.kind, refused.path) == ("refused_key", ("output_dir",))
    assert "`output`" in refused.fix
    misspelt = complain("sft", ouput_dir="here")
    assert misspelt.kind == "unknown_key"
    assert "`output`" in misspelt.fix


@pytest.mark.parametrize(
    ("table", "key", "value", "quoted", "fix"),
    [
        ("sft", "learning_rate", "fast", '"fast"', "2e-05"),
        ("sft", "learning_rate", "1e-4", '"1e-4"', "`learning_rate: 0.0001`"),
        ("sft", "packing", "True", '"True"', "`packing: true`"),
        ("sft", "seed", True, "true", "whole number"),
        ("sft", "learning_rate", True, "true", "a number"),
        ("sft", "max_grad_norm", None, "null", "1.0"),
        ("sft", "gradient_accumulation_steps", 2.5, "2.5", "whole number"),
        ("sft", "lr_scheduler_type", 3, "3", '"cosine"'),
        ("sft", "deepspeed", "zero3.json", '"zero3.json"', "mapping"),
        ("lora", "target_modules", {"q_proj": 1}, "q_proj", "list"),
    ],
)
def test_a_wrong_type_is_quoted_beside_what_is_wanted(
    table: str, key: str, value: object, quoted: str, fix: str
) -> None:
    complaint = complain(table, **{key: value})
    assert complaint.kind == "wrong_type"
    assert quoted in complaint.message
    assert fix in complaint.fix


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("sft", "learning_rate", -1e-5),
        ("sft", "learning_rate", math.nan),
        ("sft", "max_steps", math.inf),
        ("sft", "per_device_train_batch_size", 0),
        ("sft", "adam_beta2", 1),
        ("sft", "logging_steps", 0),
        ("sft", "lr_scheduler_type", "cosin"),
        ("sft", "loss_type", "chunked_nll"),
        ("sft", "pad_to_multiple_of", "always"),
        ("sft", "lr_scheduler_kwargs", {"min_lr": math.inf}),
        ("lora", "r", 0),
        ("lora", "lora_dropout", 1.5),
        ("lora", "lora_alpha", -1),
        ("lora", "rank_pattern", {"q_proj": 0}),
        ("lora", "layer_replication", [[0, 2, 4]]),
    ],
)
def test_values_that_no_trainer_can_mean_are_out_of_range(table: str, key: str, value: object) -> None:
    assert complain(table, **{key: value}).kind == "out_of_range"


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("sft", "learning_rate", 1),
        ("sft", "num_train_epochs", 0),
        ("sft", "warmup_steps", 100_000),
        ("sft", "max_length", None),
        ("sft", "pad_to_multiple_of", "auto"),
        ("sft", "pad_to_multiple_of", 8),
        ("sft", "model_init_kwargs", {"use_kernels": True}),
        ("lora", "lora_alpha", 0),
        ("lora", "target_modules", "all-linear"),
        ("lora", "target_modules", ["q_proj", "v_proj"]),
        ("lora", "init_lora_weights", "pissa_niter_4"),
        ("lora", "layer_replication", [[0, 4], [2, 5]]),
    ],
)
def test_values_that_can_be_meant_pass_as_they_are(table: str, key: str, value: object) -> None:
    assert judge({key: value}, read_table(table)) == ({key: value}, [])


def test_notations_are_read_as_what_they_mean() -> None:
    written = {"max_steps": 1e3, "eval_strategy": False, "include_num_input_tokens_seen": False}
    usable, complaints = judge(written, read_table("sft"))
    assert complaints == []
    assert usable == {"max_steps": 1000, "eval_strategy": "no", "include_num_input_tokens_seen": False}
    assert type(usable["max_steps"]) is int


def test_what_is_inside_a_value_has_its_own_path() -> None:
    values = {"velora_config": {"group": 8, "num_groups": 0}, "target_modules": ["q_proj", 3]}
    usable, complaints = judge(values, read_table("lora"))
    assert usable == {}
    assert [(one.path, one.kind) for one in complaints] == [
        (("velora_config", "group"), "unknown_key"),
        (("velora_config", "num_groups"), "out_of_range"),
        (("target_modules", 1), "wrong_type"),
    ]


def test_a_mistake_leaves_the_other_values_usable() -> None:
    usable, complaints = judge({"lr": 1, "seed": 7, "packing": "yes"}, read_table("sft"))
    assert usable == {"seed": 7}
    assert [one.path for one in complaints] == [("lr",), ("packing",)]


def test_a_table_is_read_once() -> None:
    assert isinstance(read_table("sft"), Table)
    assert read_table("sft") is read_table("sft")


def test_settings_are_known_without_torch_or_pydantic() -> None:
    program = (
        "import sys; from ftrun.schemas.settings import judge, read_table; "
        "judge({'lr': 1}, read_table('sft')); judge({}, read_table('lora')); "
        "print([name for name in ('torch', 'pydantic', 'transformers', 'peft') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "schemas")}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert result.stdout.strip() == "[]"
