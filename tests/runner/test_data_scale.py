"""Rows that are many: examples that stay on disk, tokens in files, and those of an earlier run taken again."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from ftrun.checks.catalogue import load_checks
from ftrun.checks.fingerprints import pair_keys, token_keys
from ftrun.checks.rows import IGNORED, Rows
from ftrun.checks.stages import AtData
from ftrun.checks.testing import dpo_full, ppo_full, reward_full, sft_full
from ftrun.runner.data import cache, spool
from ftrun.runner.data.cache import GrowingArray, fetch_arrays
from ftrun.runner.data.digest import digest_rows
from ftrun.runner.data.encoding import encode_split
from ftrun.runner.data.sources import load_source
from ftrun.runner.data.splits import split_rows
from ftrun.runner.data.spool import SpooledExamples
from ftrun.runner.data.storage import describe_cache
from ftrun.runner.preflight import ascend
from ftrun.runner.tiny import locate
from ftrun.schemas.sections import Source


@pytest.fixture(autouse=True)
def small_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All of the ways that many rows go, on few: files, mapped memory, several blocks, a cache of the test's own."""
    monkeypatch.setenv("FTRUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "FEW", 1)
    monkeypatch.setattr(cache, "MAPPED_FROM", 1)
    monkeypatch.setattr(spool, "NEAR", 500)
    monkeypatch.setattr(spool, "BUFFER", 300)
    monkeypatch.setattr(Rows.blocks, "__defaults__", (100,))
    yield


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def some_rows(count: int = 40) -> list[dict[str, Any]]:
    """Rows of many lengths; every ninth has a prompt that fills them."""
    return [
        {"prompt": f"room {i}? " * (9 if i % 9 == 5 else 1), "completion": f"lamp {i} " * (i % 7)}
        for i in range(count)
    ]


def encode(folder: Path, *, template: str | None = None, weight: float = 1.0, **cut: Any) -> Rows:
    tokenizer = AutoTokenizer.from_pretrained(locate())
    tokenizer.chat_template = template or tokenizer.chat_template
    loaded = load_source(
        Source(path="rows.jsonl"),
        "data.train.0",
        folder,
        method="sft",
        loss_on="completion",
        has_template=False,
        can_mark_turns=False,
    )
    part, _ = split_rows((loaded,), [weight], (), [], None, 0)
    settings: dict[str, Any] = {"max_length": 12, "truncation_mode": "keep_start", **cut}
    return encode_split(part.origins, part.sources, tokenizer, **settings)


def entries() -> int:
    found = describe_cache()
    assert found is not None
    return found.entries


def test_examples_on_disk_are_those_that_were_put_there() -> None:
    examples: list[dict[str, Any]] = [
        {"prompt": f"é{i}", "n": [i, (i, 0.5)], "odd": date(2026, 1, 1 + i % 9)} for i in range(30)
    ]
    examples += [{"prompt": "half \ud83d", "completion": "x" * 700}] + [{"text": str(i)} for i in range(30)]
    held = SpooledExamples()
    for example in examples:
        held.append(example)
    held.finish()
    assert len(held) == 61 and list(held) == examples
    assert [held[i] for i in (60, 0, -1, 30)] == [examples[i] for i in (60, 0, -1, 30)]
    assert held[58:] == examples[58:]
    with pytest.raises(IndexError):
        held[61]


def test_digests_of_examples_tell_them_and_their_order_apart() -> None:
    def digest(*texts: Any) -> str:
        held = SpooledExamples()
        for text in texts:
            held.append({"text": text})
        return held.digest

    # Who else holds a text, or how it came to be, makes no difference.
    assert digest("abc", "abc") == digest("".join(["a", "bc"]), json.loads('"abc"'))
    assert len({digest("ab", "c"), digest("a", "bc"), digest("c", "ab"), digest("ab"), digest(1)}) == 5


@pytest.mark.parametrize("cut", [{}, {"max_length": None}, {"truncation_mode": None}])
@pytest.mark.parametrize("weight", [1.0, 2.4, 0.5])
def test_rows_in_files_are_those_in_memory(
    cut: dict[str, Any], weight: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "rows.jsonl", some_rows())
    mapped, again = (encode(tmp_path, weight=weight, **cut) for _ in range(2))
    monkeypatch.setattr(cache, "FEW", 1000)
    held = encode(tmp_path, weight=weight, **cut)
    assert bool(len(held.dropped)) == (cut == {}) and bool(len(held.too_long)) == ("truncation_mode" in cut)
    assert isinstance(mapped.ids, np.memmap) and not isinstance(held.ids, np.memmap)
    assert digest_rows(mapped) == digest_rows(again) == digest_rows(held)
    for name in ("full_lengths", "origins", "dropped", "too_long", "trained"):
        assert np.array_equal(getattr(again, name), getattr(held, name)), name
    assert [one.example for one in again] == [one.example for one in held]
    assert entries() == 1


def test_blocks_are_all_rows_and_keep_pairs_together(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", some_rows())
    rows = encode(tmp_path)
    pairs = replace(rows, sources=tuple(replace(one, sides=2) for one in rows.sources))
    for whole in (rows, pairs):
        blocks = list(whole.blocks())
        assert len(blocks) > 3 and all(first % whole.sides == 0 for first, _ in blocks)
        assert np.array_equal(np.concatenate([block.ids for _, block in blocks]), whole.ids)
        for first, block in blocks:
            for number, row in enumerate(block):
                assert row.where == whole[first + number].where
                assert np.array_equal(row.labels, whole[first + number].labels)
    assert np.array_equal(rows.trained, [int((row.labels != IGNORED).sum()) for row in rows])
    assert len(list(rows.blocks(1))) == len(rows)


def test_keys_tell_rows_and_the_order_of_sides(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", some_rows(5) * 2)
    keys = token_keys(encode(tmp_path))
    assert np.array_equal(keys[:5], keys[5:]) and len(set(keys.tolist())) == 5
    sides = keys.reshape(-1, 2)
    assert not np.isin(pair_keys(sides), pair_keys(sides[:, ::-1])).any()


@pytest.mark.parametrize("make", [sft_full, reward_full, dpo_full, ppo_full])
def test_preflight_sees_the_same_cold_and_from_the_cache(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path / "world").write()

    def climb() -> tuple[Any, str, Any]:
        ascent = ascend(path, checks=load_checks("data"), upto=AtData, needed=AtData)
        assert isinstance(ascent.at, AtData), ascent.report
        told = [(one.check.id, one.verdict) for one in ascent.report.results]
        return told, digest_rows(ascent.at.train), ascent.at.train_dataset.to_list()

    cold, kept = climb(), entries()
    assert kept >= 1 and climb() == cold and entries() == kept
    monkeypatch.setenv("FTRUN_CACHE", "off")
    assert climb() == cold and describe_cache() is None
    monkeypatch.setattr(cache, "FEW", 10_000)
    assert climb() == cold


def test_what_changes_tokens_is_another_entry(tmp_path: Path) -> None:
    rows = some_rows()
    write(tmp_path / "rows.jsonl", rows)
    encode(tmp_path)
    changes: list[dict[str, Any]] = [{"max_length": 13}, {"weight": 2.0}, {"template": "{{ messages }}"}]
    for number, change in enumerate(changes, 2):
        encode(tmp_path, **change)
        assert entries() == number
    rows[-1]["completion"] += "."
    write(tmp_path / "rows.jsonl", rows)
    changed = encode(tmp_path)
    assert entries() == 5
    # Where the rows lie, and what else stands in the file, changes no token.
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "elsewhere" / "rows.jsonl", [{"id": 7, **row} for row in rows])
    assert digest_rows(encode(tmp_path / "elsewhere")) == digest_rows(changed)
    assert entries() == 5


@pytest.mark.parametrize("damage", ["flip", "cut", "no manifest", "no file", "other type"])
def test_a_damaged_entry_is_told_and_made_anew(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "rows.jsonl", some_rows())
    whole = digest_rows(encode(tmp_path))
    [entry] = (tmp_path / "cache" / "rows").iterdir()
    manifest = entry / "manifest.json"
    ids, labels = (entry / json.loads(manifest.read_text())[name]["file"] for name in ("ids", "labels"))
    if damage == "flip":
        ids.write_bytes(bytes([ids.read_bytes()[0] ^ 1]) + ids.read_bytes()[1:])
    elif damage == "cut":
        ids.write_bytes(ids.read_bytes()[:-4])
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "no file":
        labels.unlink()
    else:
        manifest.write_text(manifest.read_text("utf-8").replace("int32", "object"), "utf-8")
    assert digest_rows(encode(tmp_path)) == whole
    assert f"tokenised rows in {entry} are damaged and made anew" in capsys.readouterr().err
    assert digest_rows(encode(tmp_path)) == whole
    assert capsys.readouterr().err == "" and entries() == 1


def test_runs_at_once_make_one_whole_entry(tmp_path: Path) -> None:
    def make(folder: Path) -> dict[str, GrowingArray]:
        ids = GrowingArray(folder, "ids", np.int32)
        for start in range(0, 20_000, 100):
            ids.append(np.arange(start, start + 100, dtype=np.int32))
        return {"ids": ids}

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: fetch_arrays("a" * 64, make)["ids"], range(16)))
    assert all(np.array_equal(one, np.arange(20_000)) for one in found)
    assert [one.name for one in (tmp_path / "cache" / "rows").iterdir()] == ["a" * 64]


def test_a_run_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def make(folder: Path) -> dict[str, GrowingArray]:
        GrowingArray(folder, "ids", np.int32).append(np.arange(9, dtype=np.int32))
        raise RuntimeError("the template refuses")

    with pytest.raises(RuntimeError):
        fetch_arrays("a" * 64, make)
    assert not list((tmp_path / "cache" / "rows").iterdir())


def test_what_no_run_has_read_for_long_goes(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", some_rows())
    encode(tmp_path)
    folder = tmp_path / "cache" / "rows"
    [old] = folder.iterdir()
    left = folder / "draft-of-a-killed-run"
    left.mkdir()
    for path in (old / "manifest.json", old, left):
        os.utime(path, (0, 0))
    encode(tmp_path, max_length=5)
    assert entries() == 1 and not old.exists() and not left.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from Linux")
def test_memory_of_mapped_rows_is_let_go_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Rows.blocks, "__defaults__", (1 << 20,))
    write(tmp_path / "rows.jsonl", some_rows(2))
    count, each = 100_000, 256

    def make(folder: Path) -> dict[str, GrowingArray]:
        columns = {name: GrowingArray(folder, name, np.int32) for name in ("ids", "labels")}
        for part in range(100):
            for one in columns.values():
                one.append(np.full(count * each // 100, part, np.int32))
        return columns

    arrays = fetch_arrays(None, make)
    rows = replace(
        encode(tmp_path),
        ids=arrays["ids"],
        labels=arrays["labels"],
        starts=np.arange(count + 1) * each,
        full_lengths=np.full(count, each, np.int32),
        origins=np.zeros((count, 2), np.int32),
    )

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    assert rows.trained.sum() == count * each and len(digest_rows(rows)) == 64
    # 205 MB were read; a block is 8 MB.
    assert resident() - before < 60_000_000
