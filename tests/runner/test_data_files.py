"""Every reader gives the rows that stand in the file, and says what is not a row and why."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict

from ftrun.checks.rows import BadRow
from ftrun.runner.data.files import read_head, read_source
from ftrun.runner.data.sources import load_source
from ftrun.schemas.errors import DataError
from ftrun.schemas.sections import Source

ROOT = Path(__file__).parents[2]

ROWS: list[dict[str, Any]] = [
    {"prompt": "Where is it?", "completion": "In “room” 12,\nto the left."},
    {"prompt": "naïve\u2028café", "completion": "👍🏽"},
    {"prompt": " 007 ", "completion": ""},
]


def read(path: str, folder: Path, **keys: Any) -> list[tuple[int, Any]]:
    return list(read_source(Source(path=path, **keys), folder))


def refuse(path: str, folder: Path, **keys: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(path, folder, **keys)
    assert path in str(caught.value)
    return str(caught.value)


def as_lines(rows: list[dict[str, Any]], end: str = "\n") -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in rows)


def write_csv(path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, ["prompt", "completion"])
        table.writeheader()
        table.writerows(ROWS)


def write_arrow(path: Path, open_writer: Callable[..., Any]) -> None:
    table = pa.Table.from_pylist(ROWS)
    with open_writer(str(path), table.schema) as writer:
        writer.write_table(table)


WRITERS: dict[str, Callable[[Path], object]] = {
    "lines.jsonl": lambda path: path.write_text(as_lines(ROWS), "utf-8"),
    "lines.ndjson": lambda path: path.write_text(as_lines(ROWS), "utf-8"),
    "crlf.jsonl": lambda path: path.write_bytes(as_lines(ROWS, "\r\n").encode()),
    "marked.jsonl": lambda path: path.write_bytes(b"\xef\xbb\xbf" + as_lines(ROWS).encode()),
    "escaped.jsonl": lambda path: path.write_text("\n".join(map(json.dumps, ROWS)), "utf-8"),
    "lines.json": lambda path: path.write_text(as_lines(ROWS), "utf-8"),
    "list.json": lambda path: path.write_text(json.dumps(ROWS), "utf-8"),
    "objects.json": lambda path: path.write_text(
        "\n".join(json.dumps(row, indent=2) for row in ROWS), "utf-8"
    ),
    "pretty.json": lambda path: path.write_text("\n " + json.dumps(ROWS, indent=4) + "\n", "utf-8"),
    "marked.json": lambda path: path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS).encode()),
    "list.jsonl": lambda path: path.write_text(json.dumps(ROWS), "utf-8"),
    "SHOUTED.JSONL": lambda path: path.write_text(as_lines(ROWS), "utf-8"),
    "table.csv": write_csv,
    "table.parquet": lambda path: pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), path),
    "stream.arrow": lambda path: write_arrow(path, pa.ipc.new_stream),
    "file.arrow": lambda path: write_arrow(path, pa.ipc.new_file),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_reader_gives_the_rows(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    assert read(name, tmp_path) == list(enumerate(ROWS, 1))
    assert read(str(tmp_path / name), Path("/")) == list(enumerate(ROWS, 1))


@pytest.mark.parametrize("name", WRITERS)
def test_a_first_look_agrees(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    head = read_head(Source(path=name), "data.train.0", tmp_path)
    assert (head.place, head.problem) == ("file", None)
    loaded = load_source(
        Source(path=name),
        "data.train.0",
        tmp_path,
        method="sft",
        loss_on=None,
        has_template=False,
        can_mark_turns=False,
    )
    assert loaded.columns == ("prompt", "completion")
    assert head.columns == (None if name.endswith((".parquet", ".arrow")) else loaded.columns)


def test_a_first_look_needs_no_training_packages(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(ROWS), "utf-8")
    look = (
        "import sys; from pathlib import Path; from ftrun.runner.data.files import read_head; "
        "from ftrun.schemas.sections import Source; "
        f"print(read_head(Source(path='a.json'), 'k', Path({str(tmp_path)!r})).columns); "
        "print([name for name in ('numpy', 'pyarrow', 'datasets', 'torch') if name in sys.modules])"
    )
    path = os.pathsep.join(str(ROOT / name) for name in ("runner", "checks", "schemas"))
    done = subprocess.run(
        [sys.executable, "-c", look], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == ["('prompt', 'completion')", "[]"], done.stderr


# What is in a file stays as it is


def test_values_are_neither_guessed_nor_filled_in(tmp_path: Path) -> None:
    rows = [
        {"prompt": "1", "score": 1.0, "meta": {"a": None}, "turns": [{"role": "user", "content": None}]},
        {"prompt": "2024-01-01", "big": 2**80, "meta": {"b": [1, None]}},
    ]
    (tmp_path / "a.jsonl").write_text(as_lines(rows), "utf-8")
    assert [row for _, row in read("a.jsonl", tmp_path)] == rows
    (tmp_path / "a.csv").write_text("prompt,n\n007,1e5\nNA,\n", "utf-8")
    assert [row for _, row in read("a.csv", tmp_path)] == [
        {"prompt": "007", "n": "1e5"},
        {"prompt": "NA", "n": ""},
    ]


def test_not_a_number_is_read_and_told_where_text_is_needed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": NaN}\n{"text": "ok"}\n', "utf-8")
    found = load_source(
        Source(path="a.jsonl"),
        "k",
        tmp_path,
        method="sft",
        loss_on=None,
        has_template=False,
        can_mark_turns=False,
    )
    assert [(bad.row, bad.reason) for bad in found.bad] == [(1, "column text must be text, found float")]


def test_long_fields_and_quotes_of_csv(tmp_path: Path) -> None:
    long = "x" * 200_000
    (tmp_path / "a.csv").write_bytes(
        f'\ufeffprompt,completion\r\n"a ""b"", c",{long}\r\n\r\n"two\nlines",y\r\n'.encode()
    )
    assert read("a.csv", tmp_path) == [
        (1, {"prompt": 'a "b", c', "completion": long}),
        (2, {"prompt": "two\nlines", "completion": "y"}),
    ]
    assert csv.field_size_limit() == 131_072, "the limit of the process is as it was"


def test_folder_names_are_no_columns(tmp_path: Path) -> None:
    (tmp_path / "lang=en").mkdir()
    pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "lang=en" / "train.parquet")
    assert read("lang=en/train.parquet", tmp_path) == list(enumerate(ROWS, 1))


# Rows that are none


def test_bad_lines_are_told_by_number_and_the_others_kept(tmp_path: Path) -> None:
    lines = [
        b'{"text": "one"}',
        b"",
        b'{"text": "broken',
        b'"text"',
        b"[1]",
        b"null",
        b"12",
        b'{"text": "caf\xe9"}',
        rb'{"text": "half \ud83d"}',
        rb'{"text": "whole \ud83d\udc4d"}',
        b"   ",
        b"[" * 100_000,
        b'{"n": ' + b"1" * 5000 + b"}",
        b'{"text": "last"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    found = read("a.jsonl", tmp_path)
    rows = [(number, row) for number, row in found if not isinstance(row, BadRow)]
    assert rows == [(1, {"text": "one"}), (10, {"text": "whole 👍"}), (14, {"text": "last"})]
    reasons = {number: bad.reason for number, bad in found if isinstance(bad, BadRow)}
    assert sorted(reasons) == [3, 4, 5, 6, 7, 8, 9, 12, 13]
    assert "not JSON" in reasons[3]
    assert reasons[4] == "a row must be an object with named columns, found text"
    assert "a list" in reasons[5] and "null" in reasons[6] and "a number" in reasons[7]
    assert reasons[8] == "not UTF-8: byte 0xe9"
    assert "half of a character" in reasons[9]
    assert read_head(Source(path="a.jsonl"), "k", tmp_path).columns == ("text",)


def test_columns_that_do_not_match_the_header(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,completion\na,b\nc\nd,e,f\ng,h\n", "utf-8")
    found = read("a.csv", tmp_path)
    assert [number for number, row in found if not isinstance(row, BadRow)] == [1, 4]
    assert [(bad.row, bad.reason) for _, bad in found if isinstance(bad, BadRow)] == [
        (2, "has 1 columns, and the header has 2"),
        (3, "has 3 columns, and the header has 2"),
    ]


# Files that cannot be read


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", b'[{"a": 1}, {"a": ]', "row 2: Expecting value: line 1 column 18"),
        ("a.json", b'[{"a": 1} {"a": 2}]', "neither a comma nor a bracket follows row 1"),
        ("a.json", b'[{"a": 1}', "neither a comma nor a bracket follows row 1"),
        ("a.json", b'[{"role": "user"}]\n[{"role": "user"}]', "goes on after the list"),
        ("a.json", b'{\n"a": 1\n}\n{"a": }', "is not JSON: row 2: Expecting value: line 4 column 7"),
        ("a.json", b"[" * 100_000, "nested too deeply"),
        ("a.json", b'[{"a": "caf\xe9"}]', "not UTF-8: byte 0xe9 in line 1"),
        ("a.csv", b"a,b\nx,y\ncaf\xe9,z\n", "not UTF-8: byte 0xe9 in line 3"),
        ("a.csv", b'a,b\n"x,y\nz,w\n', "not CSV: line 3"),
        ("a.csv", b"a,a\nx,y\n", "names the column a twice"),
        ("a.csv", b"prompt;completion\nx;y\n", "has ';' between its columns"),
        ("a.jsonl", '{"a": 1}'.encode("utf-16"), "is UTF-16: save it as UTF-8"),
        ("a.jsonl.gz", b"\x1f\x8b", "is compressed: unpack it first"),
        ("a.tsv", b"a\tb", "save it as .csv"),
        ("a.txt", b"text", "a line"),
        ("a.xlsx", b"PK", "spreadsheet"),
        ("a.pickle", b"", "has an ending that ftrun does not know (ftrun reads jsonl, ndjson, json, csv"),
        ("a.parquet", b"PAR1 not really", "a.parquet"),
        ("a.arrow", b"ARROW1 not really", "a.arrow"),
        ("a.parquet", b"", "a.parquet"),
        ("a.arrow", b"", "a.arrow"),
    ],
)
def test_unreadable_files(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert said in refuse(name, tmp_path)
    head = read_head(Source(path=name), "k", tmp_path)
    assert head.place == "file"
    # A first look ends with the first row that it can read.
    assert head.columns is not None or name.endswith((".parquet", ".arrow")) or said in str(head.problem)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", ""),
        ("a.jsonl", "\n \n"),
        ("a.json", "[]"),
        ("a.json", " [ ] "),
        ("a.csv", "a,b\n"),
        ("a.csv", ""),
    ],
)
def test_empty_files(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, "utf-8")
    with pytest.raises(DataError, match="holds no rows"):
        load_source(
            Source(path=name),
            "k",
            tmp_path,
            method="sft",
            loss_on=None,
            has_template=False,
            can_mark_turns=False,
        )
    assert "holds no rows" in str(read_head(Source(path=name), "k", tmp_path).problem)


def test_one_object_around_the_rows_is_told(tmp_path: Path) -> None:
    for name, indent in (("a.json", 2), ("a.jsonl", None)):
        (tmp_path / name).write_text(json.dumps({"version": 1, "data": ROWS}, indent=indent), "utf-8")
        with pytest.raises(DataError, match=r"whose key data holds a list of 3 objects: .* write that list"):
            load_source(
                Source(path=name),
                "k",
                tmp_path,
                method="sft",
                loss_on=None,
                has_template=False,
                can_mark_turns=False,
            )


def test_one_row_that_is_a_conversation_is_a_row(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    (tmp_path / "a.json").write_text(json.dumps(row, indent=2), "utf-8")
    assert read("a.json", tmp_path) == [(1, row)]


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that opens and does not read")
def test_a_file_that_does_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").symlink_to("/proc/self/mem")
    assert "cannot be read: Input/output error" in refuse("a.jsonl", tmp_path)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="everything is readable here")
def test_a_file_without_permission(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}", "utf-8")
    (tmp_path / "a.jsonl").chmod(0)
    assert "cannot be read: Permission denied" in refuse("a.jsonl", tmp_path)


# Folders


def test_folders_with_splits_in_names_or_subfolders(tmp_path: Path) -> None:
    def write(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"text": text}) + "\n", "utf-8")

    write("named/train-00000-of-00002.jsonl", "a")
    write("named/train-00001-of-00002.jsonl", "b")
    write("named/my_dev.jsonl", "c")
    write("named/.cache/train.jsonl", "hidden")
    write("named/README.json.md", "other")
    write("nested/test/x.jsonl", "d")
    write("nested/train/x.jsonl", "e")
    write("bare/x.jsonl", "f")
    write("bare/y.json", "g")
    write("own/german.jsonl", "h")

    def texts(path: str, **keys: Any) -> list[str]:
        return [row["text"] for _, row in read(path, tmp_path, **keys)]

    assert texts("named") == ["a", "b"]
    assert texts("named", split="validation") == texts("named", split="dev") == ["c"]
    assert texts("nested") == ["e"]
    assert texts("nested", split="test") == ["d"]
    assert texts("bare") == ["f", "g"]
    assert texts("own", split="german") == ["h"]
    assert "holds no data file of split test: there is my_dev.jsonl" in refuse(
        "named", tmp_path, split="test"
    )
    assert [number for number, _ in read("named", tmp_path)] == [1, 2]


def test_a_folder_named_like_a_file(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").mkdir()
    assert "there is no file that ftrun reads" in refuse("train.jsonl", tmp_path)
    (tmp_path / "train.jsonl" / "a.jsonl").write_text(as_lines(ROWS), "utf-8")
    assert read("train.jsonl", tmp_path) == list(enumerate(ROWS, 1))
    assert read_head(Source(path="train.jsonl"), "k", tmp_path).place == "folder"


def test_folders_that_save_to_disk_wrote(tmp_path: Path) -> None:
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    DatasetDict({"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS[:1])}).save_to_disk(
        tmp_path / "several"
    )
    assert read("one", tmp_path) == read("several", tmp_path) == list(enumerate(ROWS, 1))
    assert read("several", tmp_path, split="test") == [(1, ROWS[0])]
    assert "has no split dev; it has train, test" in refuse("several", tmp_path, split="dev")
    assert "remove `split`" in refuse("one", tmp_path, split="test")
    next((tmp_path / "one").glob("*.arrow")).write_bytes(b"damaged")
    assert "one is not whole" in refuse("one", tmp_path)


# What is not there, and keys that say nothing here


def test_keys_of_hub_data_sets_are_refused_for_files(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(as_lines(ROWS), "utf-8")
    assert "has no split test: remove `split`" in refuse("a.jsonl", tmp_path, split="test")
    assert "`name` is for hub data sets" in refuse("a.jsonl", tmp_path, name="main")
    assert "`revision` is for hub data sets" in refuse("a.jsonl", tmp_path, revision="main")


@pytest.mark.parametrize(
    "path",
    ["a.jsonl", "./a", "/no/such", "a.jsonl.gz", "one/two/three", "~nobody-here/a", "x" * 300 + ".jsonl"],
)
def test_missing_files(path: str, tmp_path: Path) -> None:
    refuse(path, tmp_path)
    assert read_head(Source(path=path), "k", tmp_path).place == "missing"


def test_a_file_of_the_current_folder_is_not_taken_for_a_hub_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "rows").mkdir(parents=True)
    (tmp_path / "recipes").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert "is in the current folder, but paths are relative to the recipe" in refuse(
        "rows", tmp_path / "recipes"
    )


def test_a_hub_data_set_out_of_reach_is_told_soon(tmp_path: Path) -> None:
    ask = (
        "from pathlib import Path; from ftrun.runner.data.files import read_source; "
        "from ftrun.schemas.sections import Source; from ftrun.schemas.errors import DataError\n"
        "try: list(read_source(Source(path='nobody/nothing'), Path('.')))\n"
        "except DataError as error: print(error)"
    )
    path = os.pathsep.join(str(ROOT / name) for name in ("runner", "checks", "schemas"))
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": path}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", ask],
        env={**os.environ, **offline},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert time.monotonic() - began < 60
    assert done.stdout.startswith(
        "nobody/nothing is no file or folder beside the recipe, and as a hub data set it cannot be read: "
    ), done.stderr
    assert read_head(Source(path="nobody/nothing"), "k", tmp_path).place == "hub"


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_places_beyond_the_end_of_an_arrow_file_do_not_end_the_process(kind: str, tmp_path: Path) -> None:
    if kind == "folder":
        Dataset.from_dict({"text": ["abcd"] * 3}).save_to_disk(str(tmp_path / "saved"))
        (file,) = (tmp_path / "saved").glob("*.arrow")
    else:
        file = tmp_path / "rows.arrow"
        table = pa.table({"text": ["abcd"] * 3})
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    content = file.read_bytes()
    ends = b"".join(end.to_bytes(4, "little") for end in (0, 4, 8, 12))
    assert content.count(ends) == 1
    file.write_bytes(content.replace(ends, ends[:-4] + (2**31 - 1).to_bytes(4, "little")))
    assert "not" in refuse("saved" if kind == "folder" else file.name, tmp_path)
