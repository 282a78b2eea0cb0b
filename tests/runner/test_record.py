"""The record of a run: all that a second person needs is in its folder and in MLflow, and no secret is."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mlflow import MlflowClient
from peft import AutoPeftModelForCausalLM
from safetensors.torch import save_file

from ftrun.checks.stages import AtEnvironment
from ftrun.checks.testing import World, ppo_full, sft_full, sft_lora
from ftrun.runner.determinism import settle_determinism
from ftrun.runner.preflight import ascend
from ftrun.runner.printing.text import make_console
from ftrun.runner.record import digests
from ftrun.runner.record.digests import describe_files, describe_model, digest_trainable, digest_weights
from ftrun.runner.record.inputs import describe_reference
from ftrun.runner.record.lock import read_lock
from ftrun.runner.record.machine import describe_environment, list_packages, write_requirements
from ftrun.runner.run import run_recipe
from ftrun.runner.tracking.git import read_patch
from ftrun.schemas.errors import RunError

TOKEN = "hf_" + "aB3" * 11
PASSWORD = "s3cretPassw0rd"


def run(world: World, *, resume: bool = False, sets: tuple[str, ...] = ()) -> Path:
    console = make_console()
    assert run_recipe(world.write(), sets=sets, ignore={}, out=console, err=console, resume=resume) == 0
    return world.folder / "runs" / "healthy-1"


def short(world: World) -> World:
    world.recipe["training"] |= {
        "max_steps": 4,
        "save_strategy": "steps",
        "save_steps": 2,
        "logging_steps": 1,
    }
    return world


def lock_of(folder: Path) -> dict[str, Any]:
    lock = read_lock(folder)
    assert lock is not None
    return lock


def list_tracked(folder: Path) -> tuple[Any, dict[str, bytes]]:
    """The MLflow run of a run folder, and its artifacts by their path."""
    client = MlflowClient(f"sqlite:///{folder.parent / 'mlflow.db'}")
    delivered = json.loads((folder / "delivered.json").read_text())
    found = client.get_run(delivered["run_id"])
    root = Path(found.info.artifact_uri.removeprefix("file://"))
    return found, {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def git(folder: Path, *words: str) -> None:
    named = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    subprocess.run(["git", *named, "-C", str(folder), *words], check=True, capture_output=True)


def test_everything_is_in_the_folder_and_in_mlflow(tmp_path: Path) -> None:
    world = short(ppo_full(tmp_path))
    base = {"training": world.recipe.pop("training"), "extends": "root.yaml"}
    (tmp_path / "base.yaml").write_text("# the team's own\n" + yaml.safe_dump(base), encoding="utf-8")
    (tmp_path / "root.yaml").write_text("preflight: {fail_on: error}\n", encoding="utf-8")
    world.recipe["extends"] = "base.yaml"
    world.write()
    folder = run(world, sets=("training.seed=11",))
    lock = lock_of(folder)

    found, artifacts = list_tracked(folder)
    for name in ("recipe/1-base.yaml", "recipe/2-root.yaml", "lock.json", "requirements.txt", "recipe.yaml"):
        assert artifacts[f"ftrun/{name}"] == (folder / name).read_bytes()
    assert artifacts["ftrun/recipe/1-base.yaml"] == (tmp_path / "base.yaml").read_bytes()
    copy = "files/reward.functions.0/rewards.py"
    assert (
        artifacts[f"ftrun/{copy}"] == (folder / copy).read_bytes() == (tmp_path / "rewards.py").read_bytes()
    )
    assert lock["code"]["reward.functions.0"]["sha256"] == digest_of(tmp_path / "rewards.py")

    assert lock["recipe"]["merged"]["training"]["seed"] == 11 == lock["seeds"]["seed"]
    (rows,) = lock["data"]["data.train.0"]["files"].values()
    rows_file = tmp_path / "train.jsonl"
    assert rows == {"bytes": rows_file.stat().st_size, "sha256": digest_of(rows_file)}
    assert lock["data"]["data.train.0"]["rows"] == 32
    weights = Path(lock["models"]["model.path"]["place"]) / "model.safetensors"
    assert lock["models"]["model.path"]["files"]["model.safetensors"]["sha256"] == digest_of(weights)

    (segment,) = lock["segments"]
    assert segment["environment"]["packages"] == list_packages()
    assert segment["hardware"]["threads"] == torch.get_num_threads()
    assert segment["hardware"]["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert lock["weights"]["attention"] == "sdpa" and lock["weights"]["device"] == "cpu"
    assert lock["weights"]["trained_in"] == "float32" and lock["weights"]["computed_in"] == "as loaded"

    ladder = json.loads(artifacts["ftrun/ladder.json"])
    assert sorted(ladder["steps"]) == ["2", "4"] and len({ladder["init"], *ladder["steps"].values()}) == 3
    tags = found.data.tags
    assert tags["ftrun.lock.digest"] == hashlib.sha256(artifacts["ftrun/lock.json"]).hexdigest()
    assert tags["ftrun.weights.digest"] == ladder["weights"] == digest_weights(folder / "model")
    assert tags["ftrun.init.digest"] == ladder["init"] == lock["weights"]["initial"]


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_no_secret_is_in_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = short(ppo_full(tmp_path))
    world.recipe["tracking"] = {"tags": {"api_key": PASSWORD, "link": f"https://me:{PASSWORD}@host/x"}}
    (tmp_path / "old.py").write_text("x = 1\n")
    with (tmp_path / "rewards.py").open("a") as code:
        code.write(f'HUB = "{TOKEN}"\n')
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "old.py")
    git(tmp_path, "commit", "-qm", "one")
    git(tmp_path, "remote", "add", "origin", f"https://me:{PASSWORD}@host/x.git")
    (tmp_path / "old.py").write_text(f'x = 2\nTOKEN = "{TOKEN}"\n')
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("OMP_SECRET", PASSWORD)
    monkeypatch.setattr("sys.argv", ["ftrun", "recipe.yaml", "--set", f"tracking.tags.api_key={PASSWORD}"])
    folder = run(world)

    _, artifacts = list_tracked(folder)
    written = {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.suffix != ".safetensors" and path.is_file()
    }
    for content in (*artifacts.values(), *written.values()):
        assert TOKEN.encode() not in content and PASSWORD.encode() not in content
    assert b"+x = 2" in artifacts["ftrun/code.patch"]
    lock = lock_of(folder)
    assert "HF_TOKEN" not in lock["segments"][0]["environment"]["variables"]
    assert lock["segments"][0]["code"]["dirty"] is True


def test_a_resumed_run_has_one_lock_with_a_segment_for_each_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = short(sft_full(tmp_path))
    folder = run(world)
    before = lock_of(folder)
    shutil.rmtree(folder / "model")
    shutil.rmtree(folder / "checkpoints" / "checkpoint-4")
    monkeypatch.setattr("sys.argv", ["ftrun", "recipe.yaml", "--resume"])
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        run(world, resume=True)
    finally:
        torch.set_num_threads(threads)
    lock = lock_of(folder)
    first, second = lock["segments"]
    assert lock["data"] == before["data"] and first == before["segments"][0]
    assert second["command"] == "ftrun recipe.yaml --resume" and second["checkpoint"] == "checkpoint-2"
    assert second["hardware"]["threads"] == first["hardware"]["threads"] + 1
    assert second["changed"] == []


def test_a_lock_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    assert read_lock(tmp_path) is None
    (tmp_path / "lock.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        read_lock(tmp_path)
    (tmp_path / "lock.json").write_text('{"schema": 99}')
    with pytest.raises(RunError, match="another version"):
        read_lock(tmp_path)


def test_only_variables_of_the_allow_list_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUBLAS_WORKSPACE_CONFIG", "PYTHONHASHSEED", "NCCL_ALGO", "AWS_PROFILE", "MY_OMP_THREADS"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("NCCL_TOKEN", PASSWORD)
    found = describe_environment()["variables"]
    assert {"CUBLAS_WORKSPACE_CONFIG", "PYTHONHASHSEED", "NCCL_ALGO"} <= set(found)
    assert not {"AWS_PROFILE", "MY_OMP_THREADS", "PATH", "HOME"} & set(found)
    assert found["NCCL_TOKEN"] == "<secret>"


def test_the_requirements_name_every_package_that_has_a_name_to_install_by() -> None:
    lines = [line for line in write_requirements().splitlines() if not line.startswith("#")]
    found = dict(line.split("==") for line in lines if "==" in line)
    assert found["torch"] == list_packages()["torch"]
    by_name = [line for line in lines if " @ " not in line]
    assert len(by_name) == len(found) > 50


def test_a_large_file_is_digested_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "KEPT_FROM", 4)
    read: list[Path] = []

    def read_whole(path: Path) -> str:
        read.append(path)
        return digest_of(path)

    monkeypatch.setattr(digests, "digest_file", read_whole)
    large, small = tmp_path / "large", tmp_path / "small"
    large.write_bytes(b"large")
    small.write_bytes(b"s")
    os.utime(large, ns=(0, 10**18))
    first = describe_files([large, small], tmp_path)
    assert describe_files([large, small], tmp_path) == first
    assert read == [large, small, small]

    large.write_bytes(b"LARGE")  # changed just now: a change of the same size could follow at the same time
    again = [describe_files([large], tmp_path) for _ in range(2)]
    assert again[0]["large"]["sha256"] == digest_of(large) != first["large"]["sha256"]
    assert read.count(large) == 3
    (tmp_path / "cache" / "ftrun" / "digests.json").write_text("[")
    assert describe_files([large], tmp_path) == again[0]


def test_an_adapter_is_the_same_wherever_its_base_lies(tmp_path: Path) -> None:
    for number, (base, modules) in enumerate((("/home/a/base", ["q", "v"]), ("/home/b/base", ["v", "q"]))):
        folder = tmp_path / str(number)
        folder.mkdir()
        settings = {"base_model_name_or_path": base, "target_modules": modules, "r": 8}
        (folder / "adapter_config.json").write_text(json.dumps(settings))
        (folder / "README.md").write_text(base)
    one, two = (describe_model(tmp_path / name) for name in "01")
    assert list(one) == ["adapter_config.json"]
    assert one["adapter_config.json"]["sha256"] == two["adapter_config.json"]["sha256"]
    (tmp_path / "1" / "adapter_config.json").write_text(json.dumps({"target_modules": ["q", "v"], "r": 9}))
    assert (
        describe_model(tmp_path / "1")["adapter_config.json"]["sha256"]
        != one["adapter_config.json"]["sha256"]
    )


def test_a_model_of_the_hub_is_known_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "models--acme--small" / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("c" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = describe_reference("acme/small", None)
    assert found["commit"] == "c" * 40 and found["files"]["config.json"]["sha256"] == digest_of(
        snapshot / "config.json"
    )
    assert describe_reference("acme/other", None) == {"hub": "acme/other", "commit": None, "files": {}}
    assert describe_reference("/not/here", None)["files"] == {}


def test_a_digest_of_weights_sees_each_bit(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2).to(torch.bfloat16)
    before = digest_trainable(model)
    assert digest_trainable(model) == before
    with torch.no_grad():
        model.weight[1, 2] = torch.nextafter(model.weight[1, 2], torch.tensor(9.0, dtype=torch.bfloat16))
    assert digest_trainable(model) != before
    model.weight.requires_grad_(False)
    frozen = digest_trainable(model)
    model.bias.requires_grad_(False)
    assert digest_trainable(model) != frozen

    save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    whole = digest_weights(tmp_path)
    (tmp_path / "config.json").write_text('{"place": "elsewhere"}')
    assert digest_weights(tmp_path) == whole
    save_file({"a": torch.tensor([0.0, -0.0])}, tmp_path / "model.safetensors")
    assert digest_weights(tmp_path) != whole and digest_weights(tmp_path / "absent") == ""


def test_the_digest_at_a_checkpoint_is_that_of_its_weights(tmp_path: Path) -> None:
    folder = run(short(sft_lora(tmp_path)))
    ladder = json.loads((folder / "ladder.json").read_text())
    for step, digest in ladder["steps"].items():
        saved = folder / "checkpoints" / f"checkpoint-{step}"
        model = AutoPeftModelForCausalLM.from_pretrained(saved, is_trainable=True, dtype=torch.float32)
        assert digest_trainable(model) == digest


@pytest.fixture
def torch_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("FLASH_ATTENTION_DETERMINISTIC", raising=False)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    yield
    settle_determinism("auto", on_gpu=False)
    for name in ("FLASH_ATTENTION_DETERMINISTIC", "CUBLAS_WORKSPACE_CONFIG"):
        os.environ.pop(name, None)


@pytest.mark.parametrize(
    ("asked", "on_gpu", "algorithms", "variables"),
    [
        (True, True, "strict", {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "FLASH_ATTENTION_DETERMINISTIC": "1"}),
        (True, False, "strict", {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "FLASH_ATTENTION_DETERMINISTIC": "1"}),
        ("auto", True, "free", {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}),
        ("auto", False, "warned", {}),
        (False, True, "free", {}),
        (False, False, "free", {}),
    ],
)
def test_deterministic_settles_torch(
    asked: Any, on_gpu: bool, algorithms: str, variables: dict[str, str], torch_as_before: None
) -> None:
    os.environ["FLASH_ATTENTION_DETERMINISTIC"] = "1" if asked is False else ""
    settle_determinism(asked, on_gpu=on_gpu)
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    free = not torch.are_deterministic_algorithms_enabled()
    assert ("free" if free else "warned" if warned else "strict") == algorithms
    names = ("FLASH_ATTENTION_DETERMINISTIC", "CUBLAS_WORKSPACE_CONFIG")
    assert {name: os.environ[name] for name in names if os.environ.get(name)} == variables
    assert "CUDA_LAUNCH_BLOCKING" not in os.environ


@pytest.mark.parametrize("asked", [True, False])
def test_preflight_settles_what_the_recipe_says(asked: bool, tmp_path: Path, torch_as_before: None) -> None:
    world = sft_full(tmp_path)
    world.recipe["deterministic"] = asked
    ascend(world.write(), checks=(), needed=AtEnvironment)
    assert torch.are_deterministic_algorithms_enabled() == asked


def test_a_patch_holds_what_the_commit_has_not(tmp_path: Path) -> None:
    assert read_patch(tmp_path) is None
    git(tmp_path, "init", "-q")
    (tmp_path / "a.bin").write_bytes(bytes(range(256)))
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    assert read_patch(tmp_path) == b""
    (tmp_path / "a.bin").write_bytes(bytes(range(255, -1, -1)))
    patch = read_patch(tmp_path)
    assert patch is not None
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", ".", str(clone))
    (clone / "p").write_bytes(patch)
    git(clone, "apply", "p")
    assert (clone / "a.bin").read_bytes() == (tmp_path / "a.bin").read_bytes()
