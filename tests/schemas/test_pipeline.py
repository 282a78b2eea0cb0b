from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from ftrun.schemas.errors import RecipeError
from ftrun.schemas.load import load_recipe
from ftrun.schemas.mistake import Mistake
from ftrun.schemas.pipeline import PipelineFile, is_pipeline, load_pipeline
from ftrun.schemas.references import with_models

RECIPE = """\
name: polite
method: sft
model: {path: tiny}
data:
  train: [{path: rows.jsonl}]
training:
  learning_rate: 2e-5
"""
PIPELINE = """\
name: twice
stages:
  first: {recipe: recipes/sft.yaml}
  second:
    recipe: recipes/sft.yaml
    set:
      model.path: stage:first
      training.learning_rate: 1e-6
      data.train.0.weight: 2
"""


def write(folder: Path, pipeline: str, recipe: str = RECIPE) -> Path:
    (folder / "recipes").mkdir(exist_ok=True)
    (folder / "recipes" / "sft.yaml").write_text(recipe, encoding="utf-8")
    path = folder / "pipeline.yaml"
    path.write_text(pipeline, encoding="utf-8")
    return path


def load(folder: Path, *sets: str) -> PipelineFile:
    return load_pipeline(write(folder, PIPELINE), sets)


def mistakes(path: Path, *sets: str) -> list[Mistake]:
    with pytest.raises(RecipeError) as caught:
        load_pipeline(path, sets)
    return list(caught.value.mistakes)


def test_a_stage_is_its_recipe_with_what_the_pipeline_sets(tmp_path: Path) -> None:
    first, second = load(tmp_path).stages
    assert (first.name, second.name) == ("first", "second")
    assert first.file.recipe.model.path == "tiny" and first.inputs == {}
    assert second.file.recipe.model.path == "stage:first"
    assert second.inputs == {("model", "path"): "first"}
    assert second.file.recipe.training == {"learning_rate": 1e-6}
    assert second.file.recipe.data.train[0].weight == 2
    assert second.file.folder == tmp_path / "recipes", "data files are relative to the stage's recipe"


def test_a_value_of_the_pipeline_is_placed_in_the_pipeline(tmp_path: Path) -> None:
    file = load(tmp_path).stages[1].file
    assert str(file.where("training.learning_rate")) == (
        f"{tmp_path / 'pipeline.yaml'}:8:7 (training.learning_rate)"
    )
    assert str(file.where("data.train.0.path")).startswith(str(tmp_path / "recipes" / "sft.yaml"))


def test_set_goes_by_the_name_of_the_stage(tmp_path: Path) -> None:
    pipeline = load(tmp_path, "second.training.learning_rate=3e-6", "first.training.seed=3", "output=out")
    first, second = (stage.file.recipe for stage in pipeline.stages)
    assert first.training == {"learning_rate": 2e-5, "seed": 3}
    assert second.training == {"learning_rate": 3e-6}
    assert pipeline.pipeline.output == "out"


def test_models_take_the_place_of_stages(tmp_path: Path) -> None:
    file = load(tmp_path, "second.tracking.tags.from=stage:first").stages[1].file
    recipe = with_models(file.recipe, {"first": "/runs/twice-1/first/model"})
    assert recipe.model.path == "/runs/twice-1/first/model"
    assert recipe.tracking.tags == {"from": "stage:first"}, "a tag is text"
    assert recipe.training == file.recipe.training
    with pytest.raises(KeyError):
        with_models(file.recipe, {})


# Each row: what is replaced in the pipeline, by what, and the one mistake that follows.
@pytest.mark.parametrize(
    ("old", "new", "kind", "place", "message", "fix"),
    [
        ("name: twice", "nam: twice", "unknown_key", "1:1 nam", "no key `nam` in a pipeline", "`name`"),
        (
            "name: twice",
            "name: t\nmodel: {path: tiny}",
            "unknown_key",
            "2:1 model",
            "belongs to a rec",
            "set:",
        ),
        ("name: twice", "name: my twice", "out_of_range", "1:1 name", "letters, digits", "`name: my-twice`"),
        (
            "recipes/sft.yaml}",
            "recipes/sfft.yaml}",
            "stage_broken",
            "3:11 stages.first.recipe",
            "no such file",
            "sft",
        ),
        (
            "recipes/sft.yaml}",
            "pipeline.yaml}",
            "stage_broken",
            "3:11 stages.first.recipe",
            "pipeline itself",
            "Name",
        ),
        (
            "{recipe: recipes/sft.yaml}",
            "recipes/sft.yaml",
            "wrong_type",
            "3:3 stages.first",
            "a mapping",
            "recipe: rec",
        ),
        (
            "  first: {recipe: recipes/sft.yaml}",
            "  first: {}",
            "missing_key",
            "3:3 stages.first.recipe",
            "missing",
            "Add",
        ),
        (
            "recipes/sft.yaml}",
            "recipes/sft.yaml, sets: {}}",
            "unknown_key",
            "3:37 stages.first.sets",
            "`sets`",
            "`set`",
        ),
        ("  first:", "  my stage:", "out_of_range", "3:3 stages.my stage", "letters, digits", "my-stage"),
        (
            "stage:first",
            "stage:frist",
            "stage_unknown",
            "7:7 model.path",
            "no stage of that name",
            "`stage:first`",
        ),
        ("stage:first", "stage:second", "stage_unknown", "7:7 model.path", "itself", "`stage:first`"),
        (
            "model.path",
            "training.lerning_rate",
            "unknown_key",
            "7:7 training.lerning_rate",
            "no setting",
            "learning_rate",
        ),
        (
            "model.path",
            "model..path",
            "set_malformed",
            "7:7 stages.second.set.model..path",
            "no path",
            "key.path",
        ),
        ("1e-6", "slow", "wrong_type", "8:7 training.learning_rate", "a number", "number"),
        ("  second:", "  first:", "duplicate_key", "4:3 stages.first", "written twice", "Keep one"),
        (
            "  second:",
            "  output:",
            "out_of_range",
            "4:3 stages.output",
            "key of the pipeline",
            "output-stage",
        ),
    ],
)
def test_each_mistake_is_told_where_it_is(
    tmp_path: Path, old: str, new: str, kind: str, place: str, message: str, fix: str
) -> None:
    path = write(tmp_path, PIPELINE.replace(old, new, 1))
    found = mistakes(path)
    mistake = next((one for one in found if one.kind == kind), None)
    assert mistake is not None, found
    assert f"{mistake.where.line}:{mistake.where.column} {mistake.where.key}" == place
    assert mistake.where.file == str(path)
    assert message in mistake.message and fix in mistake.fix, mistake


def test_a_stage_that_comes_later_cannot_be_named(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        PIPELINE.replace("sft.yaml}", "sft.yaml, set: {model.path: stage:second}}").replace("e: first", ""),
    )
    (mistake,) = (one for one in mistakes(path) if "comes later" in one.message)
    assert mistake.fix == "Move `second` before `first`."


def test_the_mistakes_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    pipeline = PIPELINE.replace("name: twice", "nam: twice").replace("stage:first", "stage:frist")
    path = write(tmp_path, pipeline, RECIPE.replace("learning_rate", "lerning_rate"))
    kinds = [(one.kind, Path(one.where.file or "").name) for one in mistakes(path)]
    assert kinds == [
        ("missing_key", "pipeline.yaml"),
        ("unknown_key", "pipeline.yaml"),
        ("stage_unknown", "pipeline.yaml"),
        ("unknown_key", "sft.yaml"),
    ]


@pytest.mark.parametrize("stages", ["stages: {}", "stages:", "stages: []"])
def test_a_pipeline_has_stages(tmp_path: Path, stages: str) -> None:
    (mistake,) = mistakes(write(tmp_path, f"name: none\n{stages}\n"))
    assert mistake.where.line == 2 and mistake.where.key == "stages"


def test_a_file_is_a_recipe_or_a_pipeline(tmp_path: Path) -> None:
    path = write(tmp_path, PIPELINE)
    assert is_pipeline(path) and not is_pipeline(tmp_path / "recipes" / "sft.yaml")
    assert not is_pipeline(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match="This is a pipeline"):
        load_recipe(path)

    mixed = write(tmp_path, PIPELINE + "method: sft\n")
    (mistake,) = mistakes(mixed)
    assert mistake.kind == "stage_broken" and "has both" in mistake.message
    (tmp_path / "recipes" / "other.yaml").write_text(PIPELINE)
    nested = write(tmp_path, PIPELINE.replace("recipes/sft.yaml}", "recipes/other.yaml}"))
    (mistake,) = mistakes(nested)
    assert "another pipeline" in mistake.message and mistake.where.line == 3


def test_a_stage_in_a_recipe_that_runs_alone_is_a_mistake(tmp_path: Path) -> None:
    write(tmp_path, PIPELINE, RECIPE.replace("path: tiny", "path: stage:first"))
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "recipes" / "sft.yaml")
    (mistake,) = caught.value.mistakes
    assert mistake.kind == "stage_unknown" and mistake.where.line == 3 and "alone" in mistake.message


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("frist.training.seed=1", "`first`"),
        ("training.seed=1", "STAGE.key"),
        ("first=1", "STAGE.key"),
        ("stages.first.recipe=x", "STAGE.key"),
    ],
)
def test_a_set_that_names_nothing_is_a_mistake(tmp_path: Path, text: str, fix: str) -> None:
    (mistake,) = mistakes(write(tmp_path, PIPELINE), text)
    assert mistake.kind == "set_malformed" and fix in mistake.fix


def test_the_json_schema_takes_both_kinds_of_file() -> None:
    root = Path(__file__).parents[2]
    schema = json.loads((root / "schemas" / "ftrun" / "schemas" / "recipe.schema.json").read_text("utf-8"))

    def is_valid(text: str) -> bool:
        return not list(Draft202012Validator(schema).iter_errors(yaml.safe_load(text)))

    assert is_valid(PIPELINE) and is_valid(RECIPE.replace("2e-5", "2.0e-5"))
    assert not is_valid(PIPELINE + "method: sft\n")
    assert not is_valid(PIPELINE.replace("recipe:", "recip:"))
    assert not is_valid("name: none\nstages: {}\n")
    assert not is_valid(RECIPE.replace("method: sft", "method: sfft"))


@pytest.mark.parametrize("recipe", [r"a\0b.yaml", "~nobody-at-all/sft.yaml", "circle"])
def test_a_path_that_leads_nowhere_is_told_at_its_stage(tmp_path: Path, recipe: str) -> None:
    (tmp_path / "circle").symlink_to("circle")
    path = tmp_path / "pipeline.yaml"
    path.write_text(f'name: twice\nstages:\n  first: {{recipe: "{recipe}"}}\n', encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_pipeline(path)
    (mistake,) = caught.value.mistakes
    assert (mistake.kind, mistake.where.line) == ("stage_broken", 3)
