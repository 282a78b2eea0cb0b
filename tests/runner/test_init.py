"""What `ftrun init` writes is ready as it stands, for every method."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftrun.checks.catalogue import load_checks
from ftrun.runner.init import write_starter
from ftrun.runner.preflight import climb
from ftrun.schemas.errors import FtrunError
from ftrun.schemas.load import load_recipe, method_names


@pytest.mark.parametrize("method", method_names())
def test_a_starter_passes_every_check(method: str, tmp_path: Path) -> None:
    path = tmp_path / f"{method}.yaml"
    assert write_starter(method, None, path) == 0
    report = climb(path, checks=load_checks(), sets=[f"output={tmp_path}"])
    assert report.stage == "step"
    assert [one.message for one in report.findings if one.severity != "info"] == []


@pytest.mark.parametrize(
    ("method", "header", "columns"),
    [
        ("dpo", "question,better,worse", {"prompt": "question", "chosen": "better", "rejected": "worse"}),
        ("reward", "chosen,rejected", {}),
        ("ppo", "query", {"prompt": "query"}),
    ],
)
def test_columns_are_found_by_their_names(
    method: str, header: str, columns: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text(f"{header}\n{','.join('abc'[: header.count(',') + 1])}\n")
    write_starter(method, tmp_path / "rows.csv", tmp_path / "own.yaml")
    found = load_recipe(tmp_path / "own.yaml").recipe.data.train[0].columns
    assert {name: found[name] for name in columns if name in found} | found == columns


def test_columns_hold_what_the_format_needs(tmp_path: Path) -> None:
    """A column that is called like a conversation and holds a sentence is none, nor is a list of rows a text."""
    (tmp_path / "tickets.csv").write_text("Ticket ID,Customer message,Agent reply\n1,Where is it?,Here.\n")
    write_starter("sft", tmp_path / "tickets.csv", tmp_path / "own.yaml")
    found = load_recipe(tmp_path / "own.yaml").recipe.data.train[0].columns
    assert found == {"prompt": "Customer message", "completion": "Agent reply"}
    (tmp_path / "nested.json").write_text('{"body": [{"prompt": "a", "completion": "b"}]}')
    with pytest.raises(FtrunError, match="no format of sft fits"):
        write_starter("sft", tmp_path / "nested.json", tmp_path / "nested.yaml")


def test_a_folder_is_like_its_first_file(tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    rows.mkdir()
    with pytest.raises(FtrunError, match="holds no file that ftrun reads"):
        write_starter("sft", rows, tmp_path / "own.yaml")
    (rows / "a.csv").write_text("question,answer\nWhere?,Here.\n")
    write_starter("sft", rows, tmp_path / "own.yaml")
    source = load_recipe(tmp_path / "own.yaml").recipe.data.train[0]
    assert (source.path, source.columns) == ("rows", {"prompt": "question", "completion": "answer"})


def test_nothing_is_written_where_something_is_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "ppo.py").touch()
    with pytest.raises(FtrunError, match=r"ppo\.py is there already"):
        write_starter("ppo", None, tmp_path / "ppo.yaml")
    with pytest.raises(FtrunError, match="no format of dpo fits"):
        (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
        write_starter("dpo", tmp_path / "rows.csv", tmp_path / "dpo.yaml")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["ppo.py", "rows.csv"]
