"""`ftrun recipes`: shipped recipes, a team's catalogue in a folder and in MLflow, and what it is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ftrun.runner.commands import app
from ftrun.runner.sharing.collecting import collect
from ftrun.runner.sharing.shipped import list_shipped
from ftrun.runner.sharing.stores import FolderStore
from ftrun.schemas.bundle import MANIFEST, MAX_FILE_BYTES, Bundle, BundleError, read_bundle
from ftrun.schemas.bundle_cache import bundles_folder
from ftrun.schemas.errors import RecipeError
from ftrun.schemas.layers import read_layers
from ftrun.schemas.load import load_recipe
from ftrun.schemas.pipeline import is_pipeline, load_pipeline

RECIPE = """\
# yaml-language-server: $schema=../recipe.schema.json
# Polite answers. Nothing more.
name: polite
method: sft
model: {path: tiny}
data: {train: [{path: data/rows.jsonl}]}   # few
training: {learning_rate: 1.0e-4, seed: 7}
"""
ROWS = '{"prompt": "a", "completion": "b"}\n'
TOKEN = "hf_" + "A1b2C3d4E5" * 3


@pytest.fixture(autouse=True)
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FTRUN_CATALOGUE", str(tmp_path / "team"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "team"


def recipes(*words: str | Path) -> Result:
    """Run `ftrun recipes …` in this process; its output is of stdout and stderr together."""
    return CliRunner().invoke(app, ["recipes", *map(str, words)], catch_exceptions=False)


def written(result: Result) -> str:
    """The output as one line: the console wraps."""
    return " ".join(result.output.split())


def write(folder: Path, text: str = RECIPE, **files: str) -> Path:
    for name, content in {"data/rows.jsonl": ROWS, "recipe.yaml": text, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return folder / "recipe.yaml"


# --- shipped recipes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list_shipped())
def test_a_shipped_recipe_runs_where_it_is_copied_to(name: str, tmp_path: Path) -> None:
    path = list_shipped()[name]
    assert recipes("copy", name, tmp_path / "mine").exit_code == 0
    copy = tmp_path / "mine" / f"{name}.yaml"
    first, *_ = copy.read_text().splitlines()
    assert first.startswith("# Copied by ftrun") and f"recipe {name}, sha256:{collect(path).digest}" in first
    if is_pipeline(path):
        pairs = zip(load_pipeline(copy).stages, load_pipeline(path).stages, strict=True)
        assert all(one.file.recipe == other.file.recipe for one, other in pairs)
        files = [stage.file for stage in load_pipeline(copy).stages]
    else:
        assert load_recipe(copy).recipe == load_recipe(path).recipe
        files = [load_recipe(copy)]
    for file in files:
        assert len(file.documents) == 1, "what it extends is in it"
        for source in file.recipe.data.train:
            assert (file.folder / source.path).is_file() or name.startswith("qwen")


def test_a_copy_overwrites_nothing_and_may_be_repeated(tmp_path: Path) -> None:
    assert recipes("copy", "dpo", "mine/first.yaml").exit_code == 0
    again = recipes("copy", "dpo", "mine/second.yaml")
    assert again.exit_code == 0 and "data/" not in again.output, "the same rows stay"
    (tmp_path / "mine" / "data" / "preferences.train.jsonl").write_text("mine")
    before = sorted((tmp_path / "mine").rglob("*"))
    with pytest.raises(Exception, match="is there already"):
        recipes("copy", "dpo", "mine/third.yaml")
    assert sorted((tmp_path / "mine").rglob("*")) == before


def test_the_list_says_what_each_is_for(team: Path) -> None:
    recipes("push", write(team.parent / "mine"))
    recipes("push", write(team.parent / "mine", RECIPE.replace("7", "8")))
    (team / "broken" / "1").mkdir(parents=True)
    found = json.loads(recipes("list", "--format", "json").stdout)
    assert [one["name"] for one in found["shipped"]] == list(list_shipped())
    by_name = {one["name"]: one for one in found["shipped"]}
    assert by_name["rlhf"]["method"] == "pipeline" and by_name["qwen3-8b-qlora"]["method"] == "sft"
    assert all(one["about"] and "yaml-language" not in one["about"] for one in found["shipped"])
    broken, polite = found["team"]
    assert (polite["name"], polite["versions"], polite["about"]) == ("polite", [1, 2], "Polite answers")
    assert broken["method"] == "refused" and "is missing" in broken["about"]
    assert "polite" in recipes("list").output


def test_show_prints_text_digest_and_files(team: Path) -> None:
    shown = recipes("show", "ppo").output
    assert list_shipped()["ppo"].read_text() in shown
    assert "routing_reward.py" in shown and collect(list_shipped()["ppo"]).digest in shown
    assert recipes("show", "ppo", "--file", "routing_reward.py").output.startswith('"""The reward')
    recipes("push", write(team.parent / "mine"))
    assert "Nothing more" in recipes("show", "team:polite@1").output
    with pytest.raises(Exception, match="did you mean dpo"):
        recipes("show", "dop", "--catalogue", "")


def test_shipped_recipes_need_the_light_base_alone(tmp_path: Path) -> None:
    heavy = ("torch", "transformers", "trl", "peft", "datasets", "mlflow", "pandas", "pyarrow", "numpy")
    code = (
        "import sys; from ftrun.runner.commands import app\n"
        "for words in (['list'], ['show', 'sft-dpo'], ['copy', 'rlhf', 'mine'], ['push', 'mine/sft.yaml'],\n"
        "              ['pull', 'support-routing'], ['list']):\n"
        "    try: app(['recipes', *words])\n"
        "    except SystemExit as end: assert not end.code, (words, end.code)\n"
        f"loaded = [name for name in {heavy!r} if name in sys.modules]\n"
        "assert not loaded, loaded"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


# --- what becomes a bundle ---------------------------------------------------------------------------


def test_a_recipe_without_a_base_keeps_every_byte_but_the_editors_line(tmp_path: Path) -> None:
    files = collect(write(tmp_path)).files
    assert files["recipe.yaml"].decode() == RECIPE.partition("\n")[2]
    assert files["data/rows.jsonl"].decode() == ROWS


@pytest.mark.parametrize(
    "text",
    [
        "# Mine.\nextends: base.yaml\nname: mine\ntraining:\n  seed: 9   # lucky\n",
        "# Mine.\nextends: [base.yaml,\n  other.yaml]\nname: mine\ntraining: {seed: 9} # lucky\n",
        "# Mine.\n{extends: base.yaml, name: mine}\n",
        "# Mine.\nextends: base.yaml\nname: mine\ntracking: {tags: {a.b: c}}\n",
        "# Mine.\nname: mine\nmodel: &m {path: tiny}\ntraining: {seed: 9}\nextends:\n  - base.yaml\n",
    ],
)
def test_a_recipe_and_its_bases_become_one_that_says_the_same(tmp_path: Path, text: str) -> None:
    base = RECIPE.replace("7", "7, adam_beta1: 0.8") + "tracking: {tags: {x: 'on', y: '2e-5'}}\n"
    path = write(tmp_path, text, **{"base.yaml": base, "other.yaml": "training: {weight_decay: 0.1}\n"})
    content = collect(path)
    assert set(content.files) == {"recipe.yaml", "data/rows.jsonl"}
    flat = write(tmp_path / "flat", content.files["recipe.yaml"].decode())
    assert read_layers(flat).merged.tree == read_layers(path).merged.tree
    assert flat.read_text().startswith("# Mine.\n") and "extends" not in flat.read_text()
    assert "# lucky" in flat.read_text() or "lucky" not in text


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("data/rows", "data/none", "is not there"),
        ("data/rows", "../rows", "lies in the recipe's folder"),
        ("data/rows", "/data/rows", "lies in the recipe's folder"),
        ("data/rows", "~/rows", "lies in the recipe's folder"),
        ("data/rows", "link", "leads out of the recipe's folder"),
        ("data/rows", ".hidden/rows", "is hidden"),
        ("path: tiny", "path: weights", "weights are not shared"),
        ("path: tiny", "path: tiny, chat_template: rows.jinja", "is not there"),
        ("seed: 7", "sead: 7", "sead"),
        ("# few", f"# {TOKEN}", "recipe.yaml:5 holds what looks like a secret"),
        ("name: polite", "tracking: {tags: {api_key: abcdefgh123}}\nname: polite", "recipe.yaml:2 holds"),
        ("name: polite", "tracking: {uri: 'http://me:pw@server'}\nname: polite", "recipe.yaml:2 holds"),
        ("name: polite", "tracking:\n  tags:\n    db_password:\n      hunter2\nname: polite", "holds what"),
        ("data/rows", "data/secret", "data/secret.jsonl:2 holds what looks like a secret"),
    ],
)
def test_what_cannot_be_shared_is_refused_and_nothing_is_stored(
    team: Path, old: str, new: str, reason: str
) -> None:
    assert old in RECIPE
    folder = team.parent / "mine"
    secret = f'{ROWS}{{"prompt": "my password: swordfish", "completion": "{TOKEN}"}}\n'
    path = write(
        folder, RECIPE.replace(old, new), **{"data/secret.jsonl": secret, ".hidden/rows.jsonl": ROWS}
    )
    (team.parent / "rows.jsonl").write_text(ROWS)
    (folder / "link.jsonl").symlink_to(team.parent / "rows.jsonl")
    (folder / "weights").mkdir()
    result = recipes("push", path)
    assert result.exit_code == 2 and reason in written(result), result.output
    assert TOKEN not in result.output and not team.exists()


def test_data_that_is_too_large_is_named_and_not_carried(team: Path) -> None:
    line = ROWS * 100
    rows = line * (MAX_FILE_BYTES // len(line) + 1)
    assert recipes("push", write(team.parent / "mine", **{"data/rows.jsonl": rows})).exit_code == 0
    result = recipes("pull", "polite", "here")
    assert result.exit_code == 0 and "put it there yourself" in written(result)
    assert not (team.parent / "here" / "data").exists() and (team.parent / "here" / "recipe.yaml").is_file()
    changed = write(team.parent / "mine", **{"data/rows.jsonl": rows.upper()})
    assert "polite@2" in recipes("push", changed).output, "its digest counts"


# --- versions ----------------------------------------------------------------------------------------


def test_a_version_never_changes(team: Path) -> None:
    path = write(team.parent / "mine")
    assert "pushed team:polite@1" in recipes("push", path).output
    assert "polite@1" in recipes("push", path).output and not (team / "polite" / "2").exists()
    write(team.parent / "mine", RECIPE.replace("7", "8"))
    before = (team / "polite" / "1" / MANIFEST).read_bytes()
    refused = recipes("push", path, "--version", "1")
    assert refused.exit_code == 2 and "never changes" in written(refused)
    assert (team / "polite" / "1" / MANIFEST).read_bytes() == before
    assert "pushed team:polite@5" in recipes("push", path, "--version", "5").output
    assert "pushed team:kind@1" in recipes("push", path, "--name", "kind").output
    assert recipes("push", path, "--version", "0").exit_code == 2
    assert recipes("push", path, "--name", "../x").exit_code == 2


def test_two_that_push_at_once_get_a_version_each(team: Path) -> None:
    content = collect(write(team.parent / "mine"))
    store = FolderStore(team)

    def slow(number: int) -> Bundle:
        if number == 1:  # meanwhile another one is stored
            other = collect(write(team.parent / "other", RECIPE.replace("7", "8")))
            FolderStore(team).add("polite", None, lambda one: other.bundle("polite", one, {}))
        return content.bundle("polite", number, {})

    assert store.add("polite", None, slow).manifest.version == 2
    assert sorted(one.name for one in (team / "polite").iterdir()) == ["1", "2"]
    with pytest.raises(BundleError, match="by someone else"):
        store.add("polite", 2, slow)
    assert sorted(one.name for one in (team / "polite").iterdir()) == ["1", "2"], "nothing half is left"


def test_what_is_pulled_is_what_was_pushed(team: Path) -> None:
    path = write(team.parent / "mine")
    recipes("push", path, "--run", "polite-3")
    digest = read_bundle(team / "polite" / "1").manifest.digest
    result = recipes("pull", f"polite@sha256:{digest[:12]}", "deep/here")
    assert (
        result.exit_code == 0
        and "run: polite-3" in result.output
        and "reads its own folder alone" in written(result)
    )
    here = team.parent / "deep" / "here"
    assert (here / "recipe.yaml").read_text() == RECIPE.partition("\n")[2]
    assert recipes("pull", "polite", here).exit_code == 2, "nothing is overwritten"
    assert [one.name for one in here.parent.iterdir()] == ["here"], "no scratch is left"
    assert "polite@1" in recipes("push", here / "recipe.yaml").output, "the same content is the same version"
    assert recipes("pull", "polite@2").exit_code == recipes("pull", "rude").exit_code == 2
    assert recipes("pull", "polite", "--catalogue", "nowhere").exit_code == 2


def test_a_pipeline_is_pushed_with_its_stages(team: Path) -> None:
    stages = "{a: {recipe: ./sub/recipe.yaml}, b: {recipe: sub/recipe.yaml, set: {model.path: stage:a}}}"
    write(team.parent / "mine" / "sub", f"extends: ../base.yaml\n{RECIPE}")
    (team.parent / "mine" / "base.yaml").write_text("training: {weight_decay: 0.1}\n")
    path = team.parent / "mine" / "two.yaml"
    path.write_text(f"name: two\nstages: {stages}\n")
    assert recipes("push", path).exit_code == 0
    assert recipes("pull", "two").exit_code == 0
    pulled = load_pipeline(team.parent / "two" / "recipe.yaml")
    assert [stage.file.recipe.training["weight_decay"] for stage in pulled.stages] == [0.1, 0.1]
    assert (pulled.stages[0].file.folder / "data" / "rows.jsonl").read_text() == ROWS


# --- a pulled recipe is a stranger's -----------------------------------------------------------------


def forge(team: Path, files: dict[str, str], **changes: Any) -> None:
    """A bundle that no push makes, with digests that are right."""
    from ftrun.runner.sharing.collecting import Content

    content = Content("sft", {name: text.encode() for name, text in files.items()}, ())
    bundle = content.bundle("polite", 1, {})
    FolderStore(team).add("polite", 1, lambda number: bundle)
    if changes:
        path = team / "polite" / "1" / MANIFEST
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("output: /var/runs", "! reaches outside its folder: recipe.yaml output: /var/runs"),
        ("output: ../runs", "output: ../runs"),
        ("tracking: {uri: 'https://collector.example/x'}", "! sends elsewhere: recipe.yaml tracking.uri"),
        ("guards: {knowledge_forgotten: {probe: ../../secrets.jsonl}}", "probe: ../../secrets.jsonl"),
        ("tracking: {tags: {ftrun.folder: /models}}", "! writes over what ftrun or MLflow says"),
    ],
)
def test_what_a_recipe_would_be_allowed_is_shown_and_refused_without_trust(
    team: Path, line: str, told: str
) -> None:
    forge(team, {"recipe.yaml": f"{RECIPE}{line}\n", "data/rows.jsonl": ROWS})
    refused = recipes("pull", "polite", "here")
    assert refused.exit_code == 2 and told in written(refused) and "--trust" in written(refused)
    assert not (team.parent / "here").exists() and not bundles_folder().exists(), "nothing was written"
    assert told in written(recipes("show", "polite"))
    assert recipes("copy", "polite", "here").exit_code == 2
    trusted = recipes("pull", "polite", "here", "--trust")
    assert trusted.exit_code == 0 and told in written(trusted)
    assert line in (team.parent / "here" / "recipe.yaml").read_text()


@pytest.mark.parametrize("name", ["model", "training"])
def test_code_is_shown_and_refused_without_trust(team: Path, name: str) -> None:
    old, new = {
        "model": ("path: tiny", "path: tiny, trust_remote_code: true"),
        "training": ("seed: 7", "seed: 7, model_init_kwargs: {trust_remote_code: true}"),
    }[name]
    recipes("push", write(team.parent / "mine", RECIPE.replace(old, new)))
    refused = recipes("pull", "polite")
    assert refused.exit_code == 2 and "! runs code: recipe.yaml" in written(refused)
    assert not (team.parent / "polite").exists()


def test_the_code_of_a_reward_is_shown_before_it_is_written(team: Path) -> None:
    recipes("copy", "ppo", "mine")
    assert "has to trust it" in written(recipes("push", "mine/ppo.yaml"))
    refused = recipes("pull", "support-ppo")
    assert refused.exit_code == 2 and "! runs code: routing_reward.py" in written(refused)
    assert "def overlap" in recipes("show", "support-ppo", "--file", "routing_reward.py").output
    assert recipes("pull", "support-ppo", "--trust").exit_code == 0
    assert (team.parent / "support-ppo" / "routing_reward.py").is_file()


@pytest.mark.parametrize(
    ("files", "changes", "reason"),
    [
        ({"package.json": "{}"}, {}, "holds package.json, which its recipe does not use"),
        ({"extra.yaml": "output: runs\n"}, {}, "holds extra.yaml"),
        ({"recipe.yaml": RECIPE.replace("seed", "sead")}, {}, "is no valid recipe"),
        ({"recipe.yaml": "- a list\n"}, {}, "holds no keys"),
        ({"recipe.yaml": "a: [" * 3000}, {}, "cannot be read"),
        ({"recipe.yaml": f"{RECIPE}# {'x' * 1_000_000}"}, {}, "larger than"),
        ({"recipe.yaml": f"extends: /etc/x.yaml\n{RECIPE}"}, {}, "those of a bundle are whole"),
        ({"recipe.yaml": "name: x\nstages: {a: {recipe: b.yaml}}\n", "b.yaml": "model: 5\n"}, {}, "no valid"),
        ({}, {"method": "ppo"}, "calls itself ppo, and is sft"),
        ({}, {"digest": "0" * 64}, "is not the one of its files"),
        ({}, {"version": 7}, "stands under polite@1"),
    ],
)
def test_what_is_no_honest_bundle_is_refused_even_when_trusted(
    team: Path, files: dict[str, str], changes: dict[str, Any], reason: str
) -> None:
    forge(team, {"recipe.yaml": RECIPE, "data/rows.jsonl": ROWS, **files}, **changes)
    refused = recipes("pull", "polite", "here", "--trust")
    assert refused.exit_code == 2 and reason in written(refused), refused.output
    assert not (team.parent / "here").exists() and not bundles_folder().exists()


# --- the lock ----------------------------------------------------------------------------------------


def test_a_lock_is_written_checked_and_never_moved(team: Path) -> None:
    recipes("push", write(team.parent / "base"))
    path = write(team.parent / "mine", "extends: team:polite@1\nname: mine\n")
    stale = recipes("lock", path, "--check")
    assert stale.exit_code == 2 and "does not hold team:polite@1" in written(stale)
    assert not (path.parent / "recipes.lock").exists()
    assert recipes("lock", path).exit_code == recipes("lock", path, "--check").exit_code == 0
    (path.parent / "two.yaml").write_text("name: two\nstages: {a: {recipe: recipe.yaml}}\n")
    assert recipes("lock", path.parent / "two.yaml", "--check").exit_code == 0, "a pipeline is its stages"
    pushed = recipes("push", path)
    assert pushed.exit_code == 0 and "data/rows.jsonl" in pushed.output, "the base's rows come along"
    assert str(bundles_folder()) not in (team / "mine" / "1" / "recipe.yaml").read_text()

    (team / "polite" / "1").rename(team / "polite" / "0")
    forge(team, {"recipe.yaml": RECIPE.replace("7", "8"), "data/rows.jsonl": ROWS})
    before = (path.parent / "recipes.lock").read_bytes()
    for words in (("lock", path), ("lock", path, "--check")):
        moved = recipes(*words)
        assert moved.exit_code == 2 and "no longer what" in written(moved)
    assert (path.parent / "recipes.lock").read_bytes() == before
    assert recipes("lock", path, "--catalogue", "nowhere").exit_code == 2


def test_a_base_that_asks_for_too_much_is_told_by_the_lock_too(team: Path) -> None:
    forge(team, {"recipe.yaml": f"{RECIPE}output: ../runs\n", "data/rows.jsonl": ROWS})
    result = recipes("lock", write(team.parent / "mine", "extends: team:polite@1\nname: mine\n"))
    assert result.exit_code == 2 and "asks for more" in written(result)


def test_a_stage_may_be_a_recipe_of_the_catalogue(team: Path) -> None:
    recipes("push", write(team.parent / "base"))
    path = team.parent / "mine" / "two.yaml"
    path.parent.mkdir()
    path.write_text("name: two\nstages: {a: {recipe: team:polite@1, set: {training.seed: 9}}}\n")
    assert recipes("lock", path).exit_code == recipes("lock", path, "--check").exit_code == 0
    (stage,) = load_pipeline(path).stages
    assert stage.file.recipe.training["seed"] == 9
    assert (stage.file.folder / "data" / "rows.jsonl").read_text() == ROWS
    assert str(stage.file.where("training.learning_rate")) == "team:polite@1:6:12 (training.learning_rate)"
    refused = recipes("push", path)
    assert refused.exit_code == 2 and "ftrun recipes pull team:polite@1" in written(refused)
    path.write_text(path.read_text().replace("@1", "@3"))
    with pytest.raises(RecipeError, match="it has `team:polite@1`"):
        load_pipeline(path)


def test_a_part_of_a_recipe_is_a_base_when_that_is_said(team: Path) -> None:
    path = team.parent / "base" / "slow.yaml"
    path.parent.mkdir()
    path.write_text("# Slow.\nname: slow\ntraining: {learning_rate: 1.0e-6}\n")
    assert recipes("push", path).exit_code == 2
    assert "pushed team:slow@1" in recipes("push", path, "--base").output
    own = RECIPE.replace("learning_rate: 1.0e-4, ", "")
    mine = write(team.parent / "mine", f"extends: team:slow@1\n{own}")
    assert load_recipe(mine).recipe.training == {"learning_rate": 1e-6, "seed": 7}
    assert recipes("pull", "slow", "here").exit_code == 0
    assert json.loads(recipes("list", "--format", "json").stdout)["team"][0]["method"] == "base"
    path.write_text("name: slow\ntraining: {learning_rate: slow}\nmodle: {path: tiny}\n")
    told = written(recipes("push", path, "--base"))
    assert "modle" in told and "missing" not in told


# --- MLflow ------------------------------------------------------------------------------------------


def test_the_registry_of_mlflow_keeps_versions_and_tells_when_they_were_changed(
    team: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{team.parent}/store/mlflow.db"
    monkeypatch.setenv("FTRUN_CATALOGUE", uri)
    path = write(team.parent / "base")
    assert recipes("push", path, "--version", "4").exit_code == 2, "MLflow numbers versions itself"
    assert "pushed team:polite@1" in recipes("push", path).output
    assert "is this recipe already" in written(recipes("push", path))
    write(team.parent / "base", RECIPE.replace("7", "8"))
    assert recipes("push", path, "--version", "1").exit_code == 2
    assert "pushed team:polite@2" in recipes("push", path, "--version", "2").output
    (polite,) = json.loads(recipes("list", "--format", "json").stdout)["team"]
    assert (polite["name"], polite["versions"]) == ("polite", [1, 2])

    mine = write(team.parent / "mine", "extends: team:polite@1\nname: mine\n")
    assert "ftrun recipes lock RECIPE" in read_layers(mine).mistakes[0].fix
    assert recipes("lock", mine).exit_code == 0
    assert load_recipe(mine).recipe.training["seed"] == 7
    assert recipes("pull", "polite@2", "here").exit_code == 0
    assert "seed: 8" in (team.parent / "here" / "recipe.yaml").read_text()

    stored = [one for one in (team.parent / "store").rglob("recipe.yaml") if "seed: 7" in one.read_text()]
    stored[0].write_text(RECIPE.partition("\n")[2].replace("7", "9"))
    assert "is not what bundle.json says" in written(recipes("pull", "polite@1", "there"))
    forged = collect(write(team.parent / "evil", RECIPE.replace("7", "9"))).bundle("polite", 1, {})
    stored[0].with_name(MANIFEST).write_bytes(forged.content)
    assert "not the one that it was stored with" in written(recipes("pull", "polite@1", "there"))
    assert not (team.parent / "there").exists()
    assert load_recipe(mine).recipe.training["seed"] == 7, "the locked content is in the cache"


def test_a_server_that_is_away_is_one_line(team: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    result = recipes("list", "--catalogue", "http://127.0.0.1:9")
    assert result.exit_code == 2 and "cannot be used" in written(result)
