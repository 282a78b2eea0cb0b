from __future__ import annotations

from pathlib import Path

import pytest

from ftrun.schemas.errors import RecipeError
from ftrun.schemas.load import RecipeFile, load_recipe, method_names
from ftrun.schemas.mistake import Mistake, Where

HEALTHY = """\
name: polite
method: sft
model:
  path: tiny
  lora: {r: 8, target_modules: all-linear}
data:
  train:
    - path: data/train.jsonl
      weight: 2
  eval: {fraction: 0.1}
training:
  learning_rate: 2e-5
  max_steps: 1e2
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, text: str, *sets: str) -> RecipeFile:
    return load_recipe(write(folder, "recipe.yaml", text), sets)


def mistakes(path: Path, *sets: str) -> list[Mistake]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, sets)
    return list(caught.value.mistakes)


def only(folder: Path, text: str, *sets: str) -> Mistake:
    (mistake,) = mistakes(write(folder, "recipe.yaml", text), *sets)
    return mistake


def test_a_healthy_recipe_loads_as_written(tmp_path: Path) -> None:
    loaded = load(tmp_path, HEALTHY)
    recipe = loaded.recipe
    assert recipe.training == {"learning_rate": 2e-5, "max_steps": 100}
    assert type(recipe.training["max_steps"]) is int
    assert recipe.model.lora == {"r": 8, "target_modules": "all-linear"}
    assert recipe.data.train[0].weight == 2.0
    assert recipe.tracking.experiment is None
    assert loaded.folder == tmp_path
    assert [keys for keys, _ in loaded.documents[0].numbers_from_text] == [
        ("training", "learning_rate"),
        ("training", "max_steps"),
    ]


def test_where_is_the_key_or_its_nearest_parent(tmp_path: Path) -> None:
    loaded = load(tmp_path, HEALTHY)
    file = str(loaded.path)
    assert loaded.where("training.learning_rate") == Where(file, 12, 3, "training.learning_rate")
    assert loaded.where("data.train.0.path") == Where(file, 8, 7, "data.train.0.path")
    assert loaded.where("training.warmup_steps") == Where(file, 11, 1, "training.warmup_steps")
    assert loaded.where("tracking.uri") == Where(file, 1, 1, "tracking.uri")


# Each row: what is replaced in the healthy recipe, by what, and the one mistake that follows.
@pytest.mark.parametrize(
    ("old", "new", "kind", "place", "message", "fix"),
    [
        ("name: polite", "output: out", "missing_key", "1:1 name", "`name` is missing", "`name: my-run`"),
        ("name: polite", "name: 2024", "wrong_type", "1:1 name", "text, and is 2024", '`name: "2024"`'),
        ("name: polite", "name: my run", "out_of_range", "1:1 name", "letters, digits", "`name: my-run`"),
        ("method: sft", "", "missing_key", "1:1 method", "`method` is missing", "`sft`"),
        ("method: sft", "method: stf", "out_of_range", "2:1 method", '"stf"', "Did you mean `sft`?"),
        ("method: sft", "method: [sft]", "out_of_range", "2:1 method", "`sft`", "one of these"),
        ("method: sft", "method: sft\nmodle: 1", "unknown_key", "3:1 modle", "modle", "`model`"),
        ("method: sft", "method: sft\nlora: {}", "unknown_key", "3:1 lora", "lora", "under `model:`"),
        ("method: sft", "method: sft\nseed: 1", "unknown_key", "3:1 seed", "seed", "under `training:`"),
        ("method: sft", "method: sft\nlr: 1", "unknown_key", "3:1 lr", "lr", "`training.learning_rate`"),
        ("method: sft", "method: sft\ntracking:", "wrong_type", "3:1 tracking", "is empty", "its keys"),
        ("  path: tiny", "  path: 7", "wrong_type", "4:3 model.path", "and is 7", '`path: "7"`'),
        ("  path: tiny", "  revision: x", "missing_key", "3:1 model.path", "missing", "under `model:`"),
        ("tiny", "tiny\n  dtype: bf16", "out_of_range", "5:3 model.dtype", '"bf16"', "`bfloat16`"),
        ("tiny", "tiny\n  loss_on: x", "unknown_key", "5:3 model.loss_on", "`model`", "under `data:`"),
        ("tiny", "tiny\n  trust_remote_code: 1", "wrong_type", "5:3 model.trust_remote_code", "1", "true"),
        ("{r: 8,", "{rank: 8,", "unknown_key", "5:10 model.lora.rank", "rank", "`r`"),
        ("{r: 8,", "{r: big,", "wrong_type", "5:10 model.lora.r", "whole number", "whole number"),
        ("weight: 2", "weight: 0", "out_of_range", "9:7 data.train.0.weight", "above 0", "above 0"),
        ("weight: 2", "weight: yes", "wrong_type", "9:7 data.train.0.weight", "true", "number"),
        ("weight: 2", "weight: '2'", "wrong_type", "9:7 data.train.0.weight", '"2"', "`weight: 2`"),
        ("weight: 2", "wieght: 2", "unknown_key", "9:7 data.train.0.wieght", "wieght", "`weight`"),
        ("{fraction: 0.1}", "0.1", "wrong_type", "10:3 data.eval", "mapping or a list", "{fraction: 0.1}"),
        ("{fraction: 0.1}", "{fraction: 2}", "out_of_range", "10:10 data.eval.fraction", "below 1", "below"),
        ("{fraction: 0.1}", "[a.csv]", "wrong_type", "10:10 data.eval.0", "mapping", "`- path: a.csv`"),
        ("{fraction: 0.1}", "e.csv", "wrong_type", "10:3 data.eval", '"e.csv"', "[{path: e.csv}]"),
        ("2e-5", "fast", "wrong_type", "12:3 training.learning_rate", '"fast"', "a number"),
        ("2e-5", "-1.0", "out_of_range", "12:3 training.learning_rate", "at least 0", "default"),
        ("max_steps", "max_step", "unknown_key", "13:3 training.max_step", "max_step", "`max_steps`"),
        ("max_steps", "output_dir", "refused_key", "13:3 training.output_dir", "output", "`output`"),
        ("max_steps", "loss_on", "unknown_key", "13:3 training.loss_on", "loss_on", "under `data:`"),
    ],
)
def test_each_mistake_is_told_with_its_place_and_remedy(
    tmp_path: Path, old: str, new: str, kind: str, place: str, message: str, fix: str
) -> None:
    assert old in HEALTHY
    mistake = only(tmp_path, HEALTHY.replace(old, new))
    where = mistake.where
    assert (mistake.kind, f"{where.line}:{where.column} {where.key}") == (kind, place)
    assert where.file == str(tmp_path / "recipe.yaml")
    assert message in mistake.message
    assert fix in mistake.fix


@pytest.mark.parametrize(
    ("section", "key", "fix"),
    [
        ("model: tiny", "model", "`model: {path: tiny}`"),
        ("data: {train: a.jsonl}", "data.train", "`train: [{path: a.jsonl}]`"),
        ("data: {train: {path: a.jsonl}}", "data.train", "`- ` before its first key"),
        ("data: {train: []}", "data.train", "a list of 1 or more"),
        ("evaluation: {exact_match: '5'}", "evaluation.exact_match", "`exact_match: 5`"),
        ("evaluation: {exact_match: 5.0}", "evaluation.exact_match", "`exact_match: 5`"),
        ("evaluation: {exact_match: true}", "evaluation.exact_match", "a whole number"),
        ("preflight: {fail_on: errors}", "preflight.fail_on", "`error`"),
        ("preflight: {ignore: {data7: why}}", "preflight.ignore.data7", "DATA007"),
        ("preflight: {ignore: {DATA007: ''}}", "preflight.ignore.DATA007", "1 or more characters"),
        ("tracking: {tags: {round: 1}}", "tracking.tags.round", '`round: "1"`'),
        ("training: 5", "training", "a mapping"),
        ("training:", "training", "its keys"),
    ],
)
def test_slips_in_whole_sections_are_told_with_what_to_write(
    tmp_path: Path, section: str, key: str, fix: str
) -> None:
    base = {
        "name": "name: a",
        "method": "method: sft",
        "model": "model: {path: tiny}",
        "data": "data: {train: [{path: a}]}",
    }
    lines = {**base, section.partition(":")[0]: section}
    mistake = only(tmp_path, "\n".join(lines.values()))
    assert mistake.where.key == key
    assert mistake.where.line == list(lines.values()).index(section) + 1
    assert fix in mistake.fix
    assert "Input should" not in mistake.message
    assert "http" not in f"{mistake.message}{mistake.fix}"


def test_all_mistakes_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "name: a b\nmethod: sft\nmodel: tiny\nmodel: x\ndata: {train: [{}], eval: {fractio: 0.1}}\n"
    path = write(tmp_path, "recipe.yaml", text + "seed: !x 1\ntraining: {learning_rate: x}\n")
    told = mistakes(path, "output=", "nonsense")
    assert [(one.kind, one.where.line, one.where.key) for one in told] == [
        ("out_of_range", 1, "name"),
        ("wrong_type", 3, "model"),
        ("duplicate_key", 4, "model"),
        ("missing_key", 5, "data.train.0.path"),
        ("missing_key", 5, "data.eval.fraction"),
        ("unknown_key", 5, "data.eval.fractio"),
        ("unknown_key", 6, "seed"),
        ("unsafe_tag", 6, "seed"),
        ("wrong_type", 7, "training.learning_rate"),
        ("set_malformed", None, "nonsense"),
        ("wrong_type", None, "output"),
    ]


def test_without_a_method_the_shared_sections_are_still_judged(tmp_path: Path) -> None:
    text = "name: a b\nmethod: nope\nmodel: {dtype: fp8, path: x, lora: {rr: 1}}\ndata: {odd: 1}\nodd: 1\n"
    told = mistakes(write(tmp_path, "recipe.yaml", text))
    assert [one.where.key for one in told] == ["name", "method", "model.dtype", "model.lora.rr"]
    assert all(f"`{name}`" in told[1].message for name in method_names())


def test_bases_merge_key_by_key_across_folders(tmp_path: Path) -> None:
    write(
        tmp_path,
        "shared/deep/root.yaml",
        "method: sft\noutput: out\ntraining: {seed: 1, max_steps: 5, beta1: 1}\n",
    )
    text = """\
extends: deep/root.yaml
model: {path: ./weights, chat_template: chat.jinja, lora: {r: 4}}
data:
  train: [{path: rows.jsonl}, {path: corpus}, {path: team/corpus}, {path: ../up}, {path: /abs/rows.csv}]
  eval: [{path: nowhere.parquet}]
training: {seed: 2}
"""
    write(tmp_path, "shared/base.yaml", text)
    write(tmp_path, "shared/chat.jinja", "x")
    write(tmp_path, "shared/corpus/a.jsonl", "{}")
    (tmp_path / "shared/deep/root.yaml").write_text(
        "method: sft\noutput: out\ntraining: {seed: 1, max_steps: 5}\n"
    )
    child = (
        "name: child\nextends: ../shared/base.yaml\nmodel: {lora: null}\ntraining: {learning_rate: 1e-4}\n"
    )
    path = write(tmp_path, "mine/recipe.yaml", child)

    loaded = load_recipe(path)

    recipe = loaded.recipe
    assert recipe.training == {"seed": 2, "max_steps": 5, "learning_rate": 1e-4}
    assert (recipe.output, recipe.model.lora) == ("out", None)
    assert recipe.model.path == "../shared/weights"
    assert recipe.model.chat_template == "../shared/chat.jinja"
    assert [source.path for source in recipe.data.train] == [
        "../shared/rows.jsonl",
        "../shared/corpus",
        "team/corpus",
        "../up",
        "/abs/rows.csv",
    ]
    assert [document.path.name for document in loaded.documents] == ["recipe.yaml", "base.yaml", "root.yaml"]
    base, root = (str(document.path) for document in loaded.documents[1:])
    assert loaded.where("training.seed") == Where(base, 6, 12, "training.seed")
    assert loaded.where("training.max_steps") == Where(root, 3, 21, "training.max_steps")
    assert loaded.where("model.lora") == Where(str(path), 3, 9, "model.lora")


def test_a_dotted_path_from_a_base_never_becomes_a_hub_id(tmp_path: Path) -> None:
    base = HEALTHY.replace("data/train.jsonl", "./corpus").replace("path: tiny", "path: Qwen/Qwen3-0.6B")
    write(tmp_path, "parts/base.yaml", base)
    recipe = load(tmp_path, "extends: parts/base.yaml\nname: x\n").recipe
    assert recipe.data.train[0].path == "./parts/corpus"
    assert recipe.model.path == "Qwen/Qwen3-0.6B"


def test_several_bases_merge_left_to_right_and_may_share_one(tmp_path: Path) -> None:
    write(tmp_path, "root.yaml", HEALTHY)
    write(tmp_path, "a.yaml", "extends: root.yaml\ntraining: {seed: 1, max_steps: 1}\n")
    write(tmp_path, "b.yaml", "extends: root.yaml\ntraining: {seed: 2}\ndata: {train: [{path: b.jsonl}]}\n")
    loaded = load(tmp_path, "extends: [a.yaml, b.yaml]\n")
    assert loaded.recipe.training["seed"] == 2
    assert [source.path for source in loaded.recipe.data.train] == ["b.jsonl"]
    assert ("data", "train", 0, "weight") not in loaded.origins
    assert len(loaded.documents) == 4


def test_a_circle_of_bases_is_told_with_its_chain(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "name: a\nextends: sub/b.yaml\n")
    inner = write(tmp_path, "sub/b.yaml", "extends: ../a.yaml\n")
    (mistake,) = mistakes(tmp_path / "a.yaml")
    assert mistake.kind == "extends_broken"
    assert mistake.where.line == 1
    assert Path(mistake.where.file or "").resolve() == inner
    assert "a.yaml → sub/b.yaml → a.yaml" in mistake.message


@pytest.mark.parametrize(
    ("extends", "column", "message", "fix"),
    [
        ("base.yml", 1, "no such file", "base.yaml"),
        ("[base.yaml, zzzzzzz]", 22, "no such file", "such as"),
        ("folder", 1, "folder", "Name a recipe"),
        ('"a\\0b"', 1, "cannot be read", "path"),
    ],
)
def test_a_base_that_cannot_be_used_is_told_at_its_extends(
    tmp_path: Path, extends: str, column: int, message: str, fix: str
) -> None:
    write(tmp_path, "base.yaml", "method: sft\n")
    (tmp_path / "folder").mkdir()
    mistake = only(tmp_path, f"name: x\nextends: {extends}\n")
    assert (mistake.kind, mistake.where.line, mistake.where.column) == ("extends_broken", 2, column)
    assert message in mistake.message
    assert fix in mistake.fix


def test_a_base_that_is_not_yaml_is_told_at_its_own_line(tmp_path: Path) -> None:
    base = write(tmp_path, "base.yaml", "method: sft\nmodel: {path: x\n")
    mistake = only(tmp_path, "extends: base.yaml\nname: x\n")
    assert (mistake.kind, mistake.where.file, mistake.where.line) == ("not_yaml", str(base), 2)


def test_mistakes_in_a_base_are_told_at_its_lines(tmp_path: Path) -> None:
    base = write(tmp_path, "base.yaml", HEALTHY.replace("weight: 2", "weight: -2"))
    mistake = only(tmp_path, "extends: base.yaml\nname: x\n")
    assert mistake.where == Where(str(base), 9, 7, "data.train.0.weight")
    assert only(tmp_path, "extends: {a: 1}\n").kind == "wrong_type"


def test_sets_are_laid_over_the_recipe(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        HEALTHY,
        "training.learning_rate=1e-5",
        "data.train.0.path=x.jsonl",
        "data.train.1.path=y.jsonl",
        "tracking.tags.team=nlp",
        "model.lora={r: 2}",
        "model.revision=",
        "name=a",
    )
    recipe = loaded.recipe
    assert recipe.training == {"learning_rate": 1e-5, "max_steps": 100}
    assert [source.path for source in recipe.data.train] == ["x.jsonl", "y.jsonl"]
    assert recipe.data.train[0].weight == 2.0
    assert recipe.tracking.tags == {"team": "nlp"}
    assert recipe.model.lora == {"r": 2}
    assert recipe.name == "a"
    assert loaded.where("data.train.1.path") == Where("--set", key="data.train.1.path")
    assert loaded.where("model.lora.r") == Where("--set", key="model.lora.r")
    assert loaded.where("data.train.0.weight").line == 9


def test_sets_are_validated_like_the_file(tmp_path: Path) -> None:
    told = mistakes(
        write(tmp_path, "recipe.yaml", HEALTHY), "training.learning_rat=1", "data.train.0.weight=x"
    )
    assert [(one.kind, one.where) for one in told] == [
        ("unknown_key", Where("--set", key="training.learning_rat")),
        ("wrong_type", Where("--set", key="data.train.0.weight")),
    ]
    assert "`learning_rate`" in told[0].fix


@pytest.mark.parametrize(
    ("text", "message", "fix"),
    [
        ("training.seed", "no `=`", "key.path=value"),
        ("=5", "no path of keys", "key.path=value"),
        ("training..seed=5", "no path of keys", "key.path=value"),
        (".".join("a" * 5000) + "=5", "no path of keys", "key.path=value"),
        ("name=[1", "not closed", "quotes"),
        ("name=a: b", "reads as keys", "quotes"),
        ("name=!foo x", "tag", "Remove the tag"),
        ("name=a\udcffb", "U+DCFF", "quotes"),
        ("name.first=x", "`name` holds a value", "Set `name` itself"),
        ("data.train.7.path=x", "without an entry `7`", "1 to add one"),
        ("data.train.path=x", "without an entry `path`", "by number"),
        ("data.train." + "9" * 5000 + "=x", "without an entry", "by number"),
        ("extends=a.yaml", "in the file", "into the recipe"),
    ],
)
def test_malformed_sets_are_told(tmp_path: Path, text: str, message: str, fix: str) -> None:
    mistake = only(tmp_path, HEALTHY, text)
    assert (mistake.kind, mistake.where.file) == ("set_malformed", "--set")
    assert message in mistake.message
    assert fix in mistake.fix
    assert mistake.message.isprintable()


def test_relative_and_absolute_spellings_of_a_folder_are_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "base.yaml", HEALTHY)
    write(tmp_path, "recipe.yaml", f"extends: {tmp_path / 'base.yaml'}\nname: x\n")
    monkeypatch.chdir(tmp_path)
    assert load_recipe("recipe.yaml").recipe.data.train[0].path == "data/train.jsonl"
