from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ftrun.schemas.document import Document, read_document
from ftrun.schemas.errors import RecipeError
from ftrun.schemas.mistake import Mistake, Where


def write(folder: Path, content: str | bytes, name: str = "recipe.yaml") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(folder: Path, content: str | bytes) -> Document:
    return read_document(write(folder, content))


def refused(path: Path) -> Mistake:
    with pytest.raises(RecipeError) as caught:
        read_document(path)
    (mistake,) = caught.value.mistakes
    assert mistake.where.file == str(path)
    return mistake


def test_every_key_value_and_entry_has_its_place(tmp_path: Path) -> None:
    document = read(
        tmp_path, "# first\nmodel:\n  path: tiny\ndata:\n  train:\n    - path: a\n    - path: b\n"
    )
    file = str(document.path)
    assert document.tree == {"model": {"path": "tiny"}, "data": {"train": [{"path": "a"}, {"path": "b"}]}}
    assert document.positions["model", "path"] == Where(file, 3, 3, "model.path")
    assert document.values["model", "path"] == Where(file, 3, 9, "model.path")
    assert document.positions["data", "train", 1] == Where(file, 7, 7, "data.train.1")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", True),
        ("no", False),
        ("~", None),
        ("", None),
        ("010", 8),
        ("0x10", 16),
        ("1_000", 1000),
        (".inf", float("inf")),
        ("1:30", "1:30"),
        ("1:30.5", "1:30.5"),
        ("2024-01-01", "2024-01-01"),
        ("0x_", "0x_"),
        ("9" * 5000, "9" * 5000),
        ("!!str 2e-5", "2e-5"),
        ("'2e-5'", "2e-5"),
        ("=", "="),
    ],
)
def test_plain_values_are_what_they_seem(tmp_path: Path, text: str, value: object) -> None:
    document = read(tmp_path, f"key: {text}\n")
    assert document.tree == {"key": value}
    assert type(document.tree["key"]) is type(value)
    assert document.numbers_from_text == ()


@pytest.mark.parametrize(
    ("text", "value"), [("2e-5", 2e-5), ("1e3", 1000.0), ("&rate 2.0e5", 2e5), ("-.5E1", -5.0)]
)
def test_numbers_that_yaml_1_1_calls_text_are_numbers(tmp_path: Path, text: str, value: float) -> None:
    document = read(tmp_path, f"training:\n  learning_rate: {text}\n")
    assert document.tree == {"training": {"learning_rate": value}}
    assert document.numbers_from_text == ((("training", "learning_rate"), text.split()[-1]),)


def test_keys_are_the_texts_they_are_written_as(tmp_path: Path) -> None:
    assert list(read(tmp_path, "on: 1\n1: 2\n~: 3\n1.50: 4\n").tree) == ["on", "1", "~", "1.50"]


def test_anchors_and_merge_keys_work(tmp_path: Path) -> None:
    document = read(
        tmp_path, "a: &a {x: 1, y: 2}\nb: {y: 3, <<: *a}\nc:\n  <<: [*a, {x: 9, z: 9}]\nd: [*a]\n"
    )
    assert document.mistakes == ()
    assert document.tree["b"] == {"x": 1, "y": 3}
    assert document.tree["c"] == {"x": 1, "y": 2, "z": 9}
    assert document.tree["d"] == [{"x": 1, "y": 2}]
    assert document.positions["b", "x"].line == 1


def test_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path: Path) -> None:
    document = read(tmp_path, b"\xef\xbb\xbfname: x\r\nmodel:\r\n  path: \xc3\xa9\r\n")
    assert document.tree == {"name": "x", "model": {"path": "é"}}
    assert document.positions["name",].column == 1
    assert document.positions["model", "path"].line == 3
    assert "\r\n" in document.text


def test_duplicates_and_tags_are_told_together_and_the_rest_is_read(tmp_path: Path) -> None:
    text = "name: a\nmodel: !!python/object:os.system\n  path: x\n  path: y\nname: b\n"
    document = read(tmp_path, text + "seed: !foo 5\nz: !!set {a}\n")
    found = {(one.kind, one.where.line, one.where.column, one.where.key) for one in document.mistakes}
    assert found == {
        ("duplicate_key", 4, 3, "model.path"),
        ("duplicate_key", 5, 1, "name"),
        ("unsafe_tag", 2, 8, "model"),
        ("unsafe_tag", 6, 7, "seed"),
        ("unsafe_tag", 7, 4, "z"),
    }
    told = {one.where.key: one for one in document.mistakes}
    assert "at 1:1 and at 5:1" in told["name"].message
    assert "`!!python/object:os.system`" in told["model"].message
    assert told["seed"].fix.startswith("Remove the tag")
    assert document.tree["seed"] == 5


def test_a_mistake_behind_several_aliases_is_told_once(tmp_path: Path) -> None:
    document = read(tmp_path, "a: &a {x: 1, x: 2}\nb: *a\nc: {<<: *a}\n")
    assert [(one.kind, one.where.line) for one in document.mistakes] == [("duplicate_key", 1)]


def test_templates_and_wrong_merges_are_told(tmp_path: Path) -> None:
    document = read(tmp_path, "name: {{ name }}\nmodel: {<<: 3}\n")
    assert [(one.kind, one.where.line, one.where.column) for one in document.mistakes] == [
        ("not_yaml", 1, 8),
        ("not_yaml", 2, 13),
    ]
    assert "needs quotes" in document.mistakes[0].fix
    assert "<<: *name" in document.mistakes[1].fix


@pytest.mark.parametrize(
    ("text", "line", "column", "message", "fix"),
    [
        ("model:\n\tpath: x", 2, 1, "tab", "spaces"),
        ("model:\n  path: x\n\tdtype: y", 3, 1, "tab", "spaces"),
        ("name: a: b", 1, 8, "no key can begin", "quotes"),
        ("model:\n    path: x\n  dtype: y", 3, 3, "does not fit", "alike"),
        ("name: 'it's'", 1, 11, "does not fit", "closing quote"),
        ("a: [1,\nb: 2", 1, 4, "`[` is not closed", "`]`"),
        ("a: {x: 1\nb: 2", 1, 4, "`{` is not closed", "`}`"),
        ("a: 'x\nb: 2", 1, 4, "quote is not closed", "same quote"),
        ("a: @x", 1, 4, "begin with `@`", "quotes"),
        ('a: "C:\\data"', 1, 7, "backslash", "single quotes"),
        ("a: *x", 1, 4, "anchor that is not defined", "&name"),
        ("a: - b", 1, 4, "`- ` stands", "lines of their own"),
        ("- a\nb: 1", 2, 1, "list goes on", "`- `"),
        ("a: 1\nb\nc: 2", 2, 1, "no `:`", "key: value"),
        ("a: ]", 1, 4, "value is missing", "stray"),
    ],
)
def test_syntax_errors_name_their_place_and_remedy(
    tmp_path: Path, text: str, line: int, column: int, message: str, fix: str
) -> None:
    mistake = refused(write(tmp_path, text))
    assert mistake.kind == "not_yaml"
    assert (mistake.where.line, mistake.where.column) == (line, column)
    assert message in mistake.message
    assert fix in mistake.fix


@pytest.mark.parametrize(
    ("content", "line", "message", "fix"),
    [
        ("", None, "empty", "ftrun init"),
        ("# only a comment\n", None, "empty", "ftrun init"),
        ("---\n", None, "empty", "ftrun init"),
        ("- a\n- b\n", 1, "a list", "key: value"),
        ("name:tiny", 1, "a single value", "space after each colon"),
        ("a: 1\n---\nb: 2\n", 3, "second YAML document", "`---`"),
        ("name: x".encode("utf-16"), None, "UTF-16", "UTF-8"),
        (b"a: 1\nb: \xe9t\xe9\n", 2, "byte 8 is 0xe9", "UTF-8"),
        (b"a: 1\nb: \x00\n", 2, "U+0000", "Remove it"),
        (bytes(range(128, 256)) * 100, 1, "byte 0", "UTF-8"),
        ("[" * 10_000, 1, "50 levels", "flat"),
        ("- " * 10_000, 1, "50 levels", "flat"),
        ("a:\n" + "".join(f"  k{i}: 1\n" for i in range(20_000)), 2, "more than 10,000 values", "small"),
    ],
)
def test_files_that_are_no_recipes_are_refused(
    tmp_path: Path, content: str | bytes, line: int | None, message: str, fix: str
) -> None:
    mistake = refused(write(tmp_path, content))
    assert mistake.kind == "recipe_unreadable"
    assert mistake.where.line == line
    assert message in mistake.message
    assert fix in mistake.fix


def test_the_column_of_a_bad_byte_counts_characters(tmp_path: Path) -> None:
    assert refused(write(tmp_path, "é: ".encode() + b"\xff")).where.column == 4


def test_a_missing_file_names_the_one_that_was_meant(tmp_path: Path) -> None:
    write(tmp_path, "a: 1", "recipe.yaml")
    assert str(tmp_path / "recipe.yaml") in refused(tmp_path / "recpie.yaml").fix
    assert "There is no folder" in refused(tmp_path / "nowhere" / "recipe.yaml").message


@pytest.mark.parametrize("name", ["bad\0name.yaml", "x" * 5000, "recipe.yaml/below"])
def test_paths_that_no_file_can_have_are_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path, "a: 1")
    assert refused(tmp_path / name).kind == "recipe_unreadable"


def test_a_folder_is_refused_with_a_recipe_that_is_in_it(tmp_path: Path) -> None:
    path = write(tmp_path, "a: 1")
    mistake = refused(tmp_path)
    assert "folder" in mistake.message
    assert str(path) in mistake.fix


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "a: 1")
    path.chmod(0)
    mistake = refused(path)
    assert "Permission denied" in mistake.message
    assert "permissions" in mistake.fix


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    with path.open("wb") as file:
        file.truncate(50_000_000)
    started = time.perf_counter()
    mistake = refused(path)
    assert time.perf_counter() - started < 0.1
    assert "1 MB" in mistake.message
    assert "not the data" in mistake.fix


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "k0: &k0 {x: 1}\n" + "".join(f"k{i}: &k{i} {{<<: [*k{i - 1}, *k{i - 1}]}}\n" for i in range(1, 40))
LADDER = "k0: &k0 [[[1]]]\n" + "".join(f"k{i}: &k{i} [[[[*k{i - 1}]]]]\n" for i in range(1, 30))


@pytest.mark.parametrize("text", [LAUGHS, MERGES, LADDER, "a: &a [*a]", "a: &a {b: *a}", "a: &a {<<: *a}"])
def test_aliases_that_explode_are_refused_unexpanded(tmp_path: Path, text: str) -> None:
    started = time.perf_counter()
    mistake = refused(write(tmp_path, text))
    assert time.perf_counter() - started < 1
    assert mistake.kind == "too_many_aliases"
    assert mistake.where.line is not None
    assert "aliases" in mistake.fix
