"""Bundles from strangers, `extends: team:…`, and the lock. Each hostile bundle is one that its author could push."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftrun.schemas.bundle import (
    MANIFEST,
    MAX_FILE_BYTES,
    BundleError,
    Entry,
    digest_entries,
    read_address,
    read_bundle,
)
from ftrun.schemas.bundle_cache import bundles_folder, put_in_cache
from ftrun.schemas.errors import RecipeError
from ftrun.schemas.load import RecipeFile, load_recipe
from ftrun.schemas.mistake import Mistake
from ftrun.schemas.powers import find_powers, powers_of

BASE = """\
name: base
method: sft
model: {path: tiny}
data: {train: [{path: data/rows.jsonl}]}
training: {learning_rate: 1.0e-4, seed: 7}
"""
ROWS = '{"prompt": "a", "completion": "b"}\n'
PLAIN = {"recipe.yaml": BASE, "data/rows.jsonl": ROWS}
HASH = "0" * 64


def manifest_of(files: dict[str, str], /, **changes: Any) -> dict[str, Any]:
    entries = [
        {"name": name, "bytes": len(text.encode()), "sha256": hashlib.sha256(text.encode()).hexdigest()}
        for name, text in files.items()
    ]
    content: dict[str, Any] = {"schema": 1, "name": "polite", "version": 1, "method": "sft", "ftrun": "0.1.0"}
    content |= {"files": entries, "provenance": {"author": "someone"}, **changes}
    listed = [Entry.model_construct(**{"stored": True} | one) for one in content["files"]]
    return {"digest": digest_entries(listed)} | content


def put(
    catalogue: Path, files: dict[str, str], name: str = "polite", version: int = 1, **changes: Any
) -> Path:
    """A bundle as any text editor can write it."""
    folder = catalogue / name / str(version)
    for file, text in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text, encoding="utf-8")
    content = manifest_of(files, name=name, version=version, **changes)
    (folder / MANIFEST).write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FTRUN_CATALOGUE", str(tmp_path / "team"))
    return tmp_path / "team"


def load(folder: Path, base: str = "team:polite@1", rest: str = "name: mine\n") -> RecipeFile:
    path = folder / "mine" / "recipe.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"# mine\nextends: {base}\n{rest}", encoding="utf-8")
    return load_recipe(path)


def mistake(folder: Path, base: str = "team:polite@1") -> Mistake:
    with pytest.raises(RecipeError) as caught:
        load(folder, base)
    (one,) = caught.value.mistakes
    assert (one.kind, one.where.line) == ("extends_broken", 2), one
    return one


# --- a base of a catalogue ---------------------------------------------------------------------------


def test_a_base_lies_under_the_recipe_and_its_rows_in_the_cache(team: Path) -> None:
    put(team, PLAIN)
    loaded = load(team.parent, rest="name: mine\ntraining: {seed: 9}\n")
    assert loaded.recipe.training == {"learning_rate": 1e-4, "seed": 9}
    rows = Path(loaded.recipe.data.train[0].path)
    assert rows.is_relative_to(bundles_folder()) and rows.read_text() == ROWS
    # Nobody is to change the file in the cache: it is told by its address.
    assert str(loaded.where("training.learning_rate")).startswith("team:polite@1:")


@pytest.mark.parametrize(
    ("base", "message", "fix"),
    [
        ("team:polite", "names no version", "team:polite@VERSION"),
        ("team:polite@9", "it has `team:polite@1`", "ftrun recipes list"),
        ("team:rude@1", "nothing of this name", "ftrun recipes list"),
        ("team:polite@latest", "no address", "NAME@VERSION"),
        ("team:../../etc@1", "no address", "NAME@VERSION"),
        ("team:polite@sha256:abc", "no address", "12 or more"),
        ("team:polite@" + "f" * 12, "There is no", "list"),
    ],
)
def test_an_address_that_leads_nowhere_is_told_at_its_line(
    team: Path, base: str, message: str, fix: str
) -> None:
    put(team, PLAIN)
    told = mistake(team.parent, base)
    assert message in told.message and fix in told.fix


def test_a_digest_finds_the_version_that_has_it(team: Path) -> None:
    put(team, PLAIN)
    put(team, {**PLAIN, "recipe.yaml": BASE.replace("7", "8")}, version=2)
    digest = read_bundle(team / "polite" / "1").manifest.digest
    for pin in (digest, digest[:12], f"sha256:{digest}"):
        assert load(team.parent, f"team:polite@{pin}").recipe.training["seed"] == 7


def test_without_its_catalogue_a_locked_base_comes_from_the_cache(
    team: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(team, PLAIN)
    digest = read_bundle(team / "polite" / "1").manifest.digest
    load(team.parent)
    lock = {"schema": 1, "recipes": {"team:polite@1": f"sha256:{digest}"}}
    (team.parent / "mine" / "recipes.lock").write_text(json.dumps(lock))
    for place in ("", "http://127.0.0.1:9", str(team.parent / "nowhere")):
        monkeypatch.setenv("FTRUN_CATALOGUE", place)
        assert load(team.parent).recipe.training["seed"] == 7
    (bundles_folder() / digest / "recipe.yaml").write_text(BASE.replace("7", "8"))
    assert "SHA-256 is another" in mistake(team.parent).message
    monkeypatch.setenv("FTRUN_CATALOGUE", str(team))
    assert load(team.parent).recipe.training["seed"] == 7, "a damaged copy is replaced"
    (team.parent / "mine" / "recipes.lock").unlink()
    monkeypatch.setenv("FTRUN_CATALOGUE", "http://127.0.0.1:9")
    assert "ftrun recipes lock RECIPE" in mistake(team.parent).fix


def test_a_version_that_was_changed_after_it_was_locked_is_told_by_name(team: Path) -> None:
    put(team, PLAIN)
    lock = {"schema": 1, "recipes": {"team:polite@1": f"sha256:{HASH}"}}
    (team.parent / "mine").mkdir()
    (team.parent / "mine" / "recipes.lock").write_text(json.dumps(lock))
    told = mistake(team.parent)
    assert "`team:polite@1` is no longer what recipes.lock holds" in told.message
    for text in ("[]", '{"schema": 2, "recipes": {}}', '{"schema": 1, "recipes": {"a": 5}}', "{"):
        (team.parent / "mine" / "recipes.lock").write_text(text)
        assert "recipes.lock cannot be read" in mistake(team.parent).message


@pytest.mark.parametrize(
    "line",
    [
        "output: ../elsewhere",
        "output: ~/runs",
        "tracking: {uri: 'https://collector.example'}",
        "guards: {knowledge_forgotten: {probe: /etc/passwd}}",
        "preflight: {fail_on: error}\nextends: team:polite@2",
    ],
)
def test_a_base_may_not_ask_for_more_than_its_folder(team: Path, line: str) -> None:
    put(team, {**PLAIN, "recipe.yaml": f"{BASE}{line}\n"})
    told = mistake(team.parent)
    assert "pull" in told.fix or "push" in told.fix
    assert not bundles_folder().exists(), "it is judged before it is kept"


def test_a_base_of_another_folder_brings_its_reward(tmp_path: Path) -> None:
    ppo = (
        BASE.replace("sft", "ppo") + "reward: {functions: ['r.py:f', 'pkg.module:f'], models: [./m, run:x]}\n"
    )
    (tmp_path / "bases").mkdir()
    (tmp_path / "bases" / "ppo.yaml").write_text(f"{ppo}value: {{path: ./v}}\n")
    (tmp_path / "mine.yaml").write_text("extends: bases/ppo.yaml\n")
    recipe: Any = load_recipe(tmp_path / "mine.yaml").recipe
    assert recipe.reward.functions == ["bases/r.py:f", "pkg.module:f"]
    assert recipe.reward.models == ["./bases/m", "run:x"] and recipe.value.path == "./bases/v"


def test_a_recipe_without_team_pays_nothing(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(BASE)
    code = (
        "import sys; from ftrun.schemas.load import load_recipe; load_recipe('recipe.yaml')\n"
        "assert not {'ftrun.schemas.bundle', 'ftrun.schemas.catalogue', 'ftrun.schemas.powers'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# --- what a recipe would be allowed ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tree", "kind"),
    [
        ({"data": {"train": [{"path": "/etc/passwd"}]}}, "reaches"),
        ({"data": {"eval": [{"path": "data/../../x.jsonl"}]}}, "reaches"),
        ({"data": {"train": [{"path": "C:\\x.jsonl"}]}}, "reaches"),
        ({"data": {"train": [{"path": "..\\x.jsonl"}]}}, "reaches"),
        ({"data": {"train": [{"path": "s3://bucket/x"}]}}, "reaches"),
        ({"model": {"path": "~/secret-model"}}, "reaches"),
        ({"model": {"reference": "../model"}}, "reaches"),
        ({"model": {"chat_template": "/tmp/x.jinja"}}, "reaches"),
        ({"reward": {"models": ["../reward"]}}, "reaches"),
        ({"value": {"path": "/v"}}, "reaches"),
        ({"output": "/var"}, "reaches"),
        ({"reward": {"functions": ["r.py:f"]}}, "code"),
        ({"reward": {"functions": ["os:system"]}}, "code"),
        ({"reward": {"functions": "r.py:f"}}, "code"),
        ({"model": {"trust_remote_code": True}}, "code"),
        ({"model": {"trust_remote_code": "yes"}}, "code"),
        ({"training": {"model_init_kwargs": {"trust_remote_code": True}}}, "code"),
        ({"training": {"model_init_kwargs": {"use_kernels": True}}}, "code"),
        ({"training": {"model_init_kwargs": {"attn_implementation": "someone/kernel"}}}, "code"),
        ({"training": {"model_init_kwargs": {"proxies": {"https": "http://x"}}}}, "sends"),
        ({"tracking": {"uri": "http://x"}}, "sends"),
        ({"training": {"push_to_hub": True}}, "sends"),
        ({"training": {"hub_model_id": "me/x"}}, "sends"),
        ({"training": {"deepspeed": "ds.json"}}, "engine"),
        ({"training": {"deepspeed": {"wandb": {"enabled": True}}}}, "engine"),
        ({"tracking": {"tags": {"ftrun.folder": "/models"}}}, "record"),
        ({"stages": {"a": {"recipe": "../x.yaml"}}}, "reaches"),
        ({"stages": {"a": {"recipe": "a.yaml", "set": {"tracking.uri": "http://x"}}}}, "sends"),
        ({"stages": {"a": {"set": {"model": {"trust_remote_code": True}}}}}, "code"),
        ({"stages": {"a": {"set": {"reward.functions.0": "r.py:f"}}}}, "code"),
        ({"stages": {"a": {"set": {"training.model_init_kwargs": {"use_kernels": True}}}}}, "code"),
    ],
)
def test_every_power_is_seen(tree: dict[str, Any], kind: str) -> None:
    assert kind in {one.kind for one in find_powers(tree, "recipe.yaml")}


def test_words_that_look_like_paths_are_no_powers() -> None:
    tree = {
        "name": "../x",
        "model": {
            "path": "Qwen/Qwen3-1.7B",
            "trust_remote_code": False,
            "lora": {"target_modules": r".*\.q_proj"},
        },
        "data": {
            "train": [{"path": "data/rows.jsonl", "columns": {"prompt": "/q"}}, {"path": "trl-lib/Capybara"}]
        },
        "training": {"model_init_kwargs": {"attn_implementation": "sdpa"}, "eos_token": "<|im_end|>"},
        "preflight": {"ignore": {"DATA007": "see https://example.com/x"}},
        "tracking": {"uri": None, "tags": {"see": "https://example.com"}, "experiment": "/team/x"},
        "reward": {"functions": [], "models": ["run:polite", "stage:reward"]},
    }
    assert not list(find_powers(tree, "recipe.yaml"))


def test_every_python_file_is_code(team: Path) -> None:
    put(team, {**PLAIN, "data/x.py": "print(1)\n"})
    (power,) = powers_of(read_bundle(team / "polite" / "1"))
    assert str(power) == "runs code: data/x.py 1 lines of Python"


# --- hostile bundles ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../x.jsonl",
        "data/../../x.jsonl",
        "/etc/x.jsonl",
        "~/x.jsonl",
        "data//x.jsonl",
        "./x.jsonl",
        ".git/hooks/x.json",
        ".vscode/tasks.json",
        "..\\x.jsonl",
        "C:x.jsonl",
        "x.jsonl:stream.json",
        "con.json",
        "data/nul",
        "x.jsonl ",
        "x\n.jsonl",
        "x\u202e.jsonl",
        "x\0.jsonl",
        "x.sh",
        "x.pkl",
        "model.safetensors",
        "recipes.lock",
        "bundle.json",
        "Recipe.YAML",
        "a/" * 9 + "x.jsonl",
        "x" * 300 + ".jsonl",
        "",
    ],
)
def test_a_name_that_no_bundle_may_hold_is_refused(team: Path, name: str) -> None:
    folder = put(team, PLAIN)
    text = manifest_of(PLAIN)["files"]
    content = manifest_of(PLAIN, files=[*text, {"name": name, "bytes": 0, "sha256": HASH}])
    (folder / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(BundleError, match="refused"):
        read_bundle(folder)


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


Damage = Callable[[Path, Path], Any]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda rows, out: (rows.unlink(), rows.symlink_to(out)), "no plain file"),
        (lambda rows, out: (rows.unlink(), rows.hardlink_to(out), rows.write_text("x")), "is not what"),
        (lambda rows, out: make_pipe(rows), "no plain file"),
        (lambda rows, out: (rows.unlink(), rows.symlink_to("/dev/zero")), "no plain file"),
        (lambda rows, out: (rows.unlink(), rows.mkdir()), "no plain file"),
        (
            lambda rows, out: (rows.rename(out), rows.parent.rmdir(), rows.parent.symlink_to(out.parent)),
            "link",
        ),
        (lambda rows, out: rows.write_text(ROWS + ROWS), "larger than"),
        (lambda rows, out: rows.write_text(ROWS.upper()), "is not what"),
        (lambda rows, out: rows.unlink(), "missing"),
    ],
    ids=["link", "other", "pipe", "device", "folder", "link on the way", "longer", "changed", "missing"],
)
def test_what_is_no_plain_file_of_the_right_content_is_refused(
    team: Path, damage: Damage, reason: str
) -> None:
    folder = put(team, PLAIN)
    outside = team.parent / "rows.jsonl"
    outside.write_text(ROWS)
    damage(folder / "data" / "rows.jsonl", outside)
    with pytest.raises(BundleError, match=reason):
        read_bundle(folder)
    assert reason in mistake(team.parent).message


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"digest": HASH},
        {"name": "../x"},
        {"name": "rude"},
        {"version": 2},
        {"version": 0},
        {"method": "shell"},
        {"files": []},
        {"files": [{"name": "data/rows.jsonl", "bytes": 1, "sha256": HASH}]},
        {"files": [{"name": "recipe.yaml", "bytes": MAX_FILE_BYTES + 1, "sha256": HASH}]},
        {"files": [{"name": "recipe.yaml", "bytes": -1, "sha256": HASH}]},
        {"files": [{"name": "recipe.yaml", "bytes": 1, "sha256": HASH, "stored": False}]},
        {"files": [{"name": f"{n}.jsonl", "bytes": 9_000_000, "sha256": HASH} for n in range(6)]},
        {"files": [{"name": f"{n}.jsonl", "bytes": 1, "sha256": HASH} for n in range(101)]},
        {
            "files": [
                {"name": name, "bytes": 1, "sha256": HASH} for name in ("recipe.yaml", "a.json", "A.JSON")
            ]
        },
        {
            "files": [
                {"name": name, "bytes": 1, "sha256": HASH}
                for name in ("recipe.yaml", "a.json", "a.json/b.json")
            ]
        },
        {"provenance": {"author": "\x1b[2J"}},
        {"provenance": {str(n): "x" for n in range(21)}},
        {"run": "rm -rf"},
    ],
)
def test_a_manifest_that_lies_or_is_too_large_is_refused(team: Path, changes: dict[str, Any]) -> None:
    folder = put(team, PLAIN)
    (folder / MANIFEST).write_text(json.dumps({**manifest_of(PLAIN, **changes), **changes}))
    told = mistake(team.parent)
    assert "is refused" in told.message and "\x1b" not in told.message


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "5", "[" * 100_000, '{"a": ' * 30_000, '{"version": ' + "9" * 5000 + "}", " " * 200_001],
)
def test_a_manifest_that_is_none_is_refused(team: Path, text: str) -> None:
    (put(team, PLAIN) / MANIFEST).write_text(text)
    assert "is refused" in mistake(team.parent).message


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(
            f"{n}: &{n} [{', '.join(['*' + p] * 9)}]\n" for p, n in zip("abcdefg", "bcdefgh", strict=True)
        ),
        "[" * 5000,
        "a: !!python/object/apply:os.system [id]\n" + BASE,
        "- a list\n",
        BASE + "# " + "x" * 1_000_001,
        BASE + "\0",
    ],
    ids=["aliases", "nested", "tag", "list", "huge", "nul"],
)
def test_hostile_yaml_is_refused_and_never_built(team: Path, text: str) -> None:
    put(team, {**PLAIN, "recipe.yaml": text})
    with pytest.raises(RecipeError) as caught:
        load(team.parent)
    assert any(one.where.line == 2 or "python/object" in one.message for one in caught.value.mistakes)


def test_two_that_fill_the_cache_at_once_end_with_the_same(team: Path) -> None:
    bundle = read_bundle(put(team, PLAIN))
    first, second = put_in_cache(bundle), put_in_cache(bundle)
    assert first == second and [one.name for one in bundles_folder().iterdir()] == [first.name]


def test_addresses_are_written_as_they_are_read() -> None:
    for text in ("team:polite@3", f"team:polite@sha256:{'a' * 12}", "team:polite"):
        assert str(read_address(text)) == text == str(read_address(text.removeprefix("team:")))
