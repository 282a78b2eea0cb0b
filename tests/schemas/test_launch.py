"""`launch:`: counts that fit together, the same for all stages, and no part of what names a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftrun.schemas.errors import RecipeError
from ftrun.schemas.launch import Launch
from ftrun.schemas.load import load_recipe
from ftrun.schemas.pipeline import load_pipeline
from ftrun.schemas.resolve import digest, resolve

TEXT = """\
name: polite
method: sft
model: {path: tiny}
data: {train: [{path: a.jsonl}]}
"""


def write(folder: Path, launch: str, name: str = "sft") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(TEXT + (f"launch: {launch}\n" if launch else ""), encoding="utf-8")
    return path


def mistakes(path: Path, *sets: str) -> str:
    with pytest.raises(RecipeError) as told:
        load_pipeline(path, sets)
    return str(told.value)


def test_processes_are_those_of_all_machines(tmp_path: Path) -> None:
    launch = load_recipe(write(tmp_path, "{processes: 16, machines: 2}")).recipe.launch
    assert (launch.processes, launch.machines, launch.per_machine) == (16, 2, 8)
    assert Launch().per_machine == 1 and Launch(machines=2).per_machine == 1


@pytest.mark.parametrize(
    "launch", ["{processes: 3, machines: 2}", "{processes: 1, machines: 2}", "{processes: 0}"]
)
def test_counts_that_do_not_fit_are_told_at_their_line(launch: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"sft\.yaml:5"):
        load_recipe(write(tmp_path, launch))


def test_the_digest_is_of_what_is_trained_and_not_of_what_on(tmp_path: Path) -> None:
    alone = digest(resolve(load_recipe(write(tmp_path, "")).recipe))
    shared = load_recipe(write(tmp_path, "{processes: 2, strategy: fsdp}")).recipe
    assert digest(resolve(shared)) == alone
    assert shared.launch.processes == 2


def test_stages_run_on_the_same_processes(tmp_path: Path) -> None:
    write(tmp_path, "{processes: 2}", "one")
    write(tmp_path, "{processes: 4, machines: 2}", "two")
    pipeline = tmp_path / "both.yaml"
    text = "name: both\nstages: {a: {recipe: one.yaml}, b: {recipe: two.yaml}}\n"
    pipeline.write_text(text, encoding="utf-8")
    told = mistakes(pipeline)
    assert "`launch.processes` of the stage `b` is 4, and that of `a` is 2" in told
    assert "`launch.machines` of the stage `b` is 2, and that of `a` is 1" in told
    pipeline.write_text(text + "launch: {processes: 3}\n", encoding="utf-8")
    file = load_pipeline(pipeline)
    assert {stage.file.recipe.launch.processes for stage in file.stages} == {3} == {file.launch.processes}
    assert load_pipeline(pipeline, ["launch.processes=5"]).launch.processes == 5


def test_fsdp_is_a_strategy_and_no_setting_of_the_trainer(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    path.write_text(path.read_text() + "training: {fsdp: true}\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"`fsdp` is not for a recipe to set"):
        load_recipe(path)
