"""Pairs of answers and prompts: from rows as people keep them to tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ftrun.checks.rows import IGNORED, Rows, SourceRows
from ftrun.runner.data.conversion import make_converter
from ftrun.runner.data.encoding import encode_split
from ftrun.runner.data.sources import load_source
from ftrun.runner.data.splits import count_splits, split_rows
from ftrun.runner.data.tables import make_divided_pairs, make_pairs, make_prompts
from ftrun.runner.tiny import locate
from ftrun.schemas.errors import DataError
from ftrun.schemas.sections import Source

ASK = {"role": "user", "content": "Hi"}
GOOD, BAD = {"role": "assistant", "content": "Hello."}, {"role": "assistant", "content": "Go away."}
GPT = {"from": "gpt", "value": "Hello."}

PAIRS: list[tuple[dict[str, Any], Any, Any, Any]] = [
    ({"prompt": "a ", "chosen": "b", "rejected": "c"}, "a ", "b", "c"),
    ({"chosen": "a b", "rejected": "a c"}, "a", " b", " c"),  # without the blank, as TRL divides them
    ({"chosen": "ab", "rejected": "abc"}, "a", "b", "bc"),
    ({"prompt": "Hi", "chosen": [ASK, GOOD], "rejected": [ASK, BAD]}, [ASK], [GOOD], [BAD]),
    ({"prompt": "Hi", "chosen": [GOOD], "rejected": [BAD]}, [ASK], [GOOD], [BAD]),
    ({"prompt": [ASK], "chosen": "Hello.", "rejected": "Go away."}, [ASK], [GOOD], [BAD]),
    ({"prompt": [ASK], "chosen": GOOD, "rejected": [BAD]}, [ASK], [GOOD], [BAD]),
    ({"chosen": [ASK, GOOD], "rejected": [ASK, BAD]}, [ASK], [GOOD], [BAD]),
    (
        {"conversations": [{"from": "human", "value": "Hi"}], "chosen": GPT, "rejected": BAD},
        [ASK],
        [GOOD],
        [BAD],
    ),
    (
        {"prompt": [ASK, GOOD, ASK], "chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
        [ASK, GOOD, ASK],
        [GOOD],
        [BAD],
    ),
]


@pytest.mark.parametrize(("row", "prompt", "chosen", "rejected"), PAIRS)
def test_pairs(row: dict[str, Any], prompt: Any, chosen: Any, rejected: Any) -> None:
    before = json.dumps(row)
    first, second = make_converter("preference", True)(row)
    assert first == {"prompt": prompt, "completion": chosen}
    assert second == {"prompt": prompt, "completion": rejected}
    assert json.dumps(row) == before


def test_margin_and_system_come_along() -> None:
    row = {"prompt": "Hi", "system": "Be kind.", "chosen": [GOOD], "rejected": [BAD], "margin": 2}
    first, _ = make_converter("preference", True)(row)
    assert first["margin"] == 2.0
    assert first["prompt"] == [{"role": "system", "content": "Be kind."}, ASK]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": None}, "column rejected is empty"),
        ({"prompt": "a", "chosen": "b", "rejected": [BAD]}, "one of the columns chosen and rejected is text"),
        ({"prompt": "a", "chosen": 3, "rejected": "c"}, "column chosen must be text"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": "big"}, "column margin must be a number"),
        ({"prompt": [ASK, GOOD], "chosen": [GOOD], "rejected": [BAD]}, "ends with a turn of the assistant"),
    ],
)
def test_what_is_no_pair(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        make_converter("preference", True)(row)


def load(folder: Path, method: str, rows: list[dict[str, Any]]) -> SourceRows:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_source(
        Source(path="rows.jsonl"),
        "data.train.0",
        folder,
        method=method,
        loss_on=None,
        has_template=True,
        can_mark_turns=True,
    )


def encode(source: SourceRows, *, weight: float = 1.0, **settings: Any) -> Rows:
    from transformers import AutoTokenizer

    split, _ = split_rows((source,), [weight], (), [], None, 0)
    tokenizer = AutoTokenizer.from_pretrained(locate())
    rows = encode_split(split.origins, split.sources, tokenizer, **settings)
    (count,) = count_splits((rows, split))
    assert count.adds_up and count.kept == len(rows) // rows.sides
    return rows


def test_both_sides_stand_together_and_share_their_prompt(tmp_path: Path) -> None:
    made = [
        {"prompt": f"Question {i}: ", "chosen": f"good {i}", "rejected": f"bad {i} {i}"} for i in range(9)
    ]
    rows = encode(load(tmp_path, "dpo", made), weight=2, max_length=None, truncation_mode="keep_start")
    assert len(rows) == 36
    for i in range(0, 36, 2):
        chosen, rejected = rows[i], rows[i + 1]
        assert chosen.where == rejected.where
        assert chosen.example["completion"].startswith("good")
        assert rejected.example["completion"].startswith("bad")
        prompts = [row.ids[row.labels == IGNORED].tolist() for row in (chosen, rejected)]
        assert prompts[0] == prompts[1]
    whole = make_pairs(rows)
    divided = make_divided_pairs(rows)
    assert whole["chosen_ids"][3] == rows[6].ids.tolist()
    assert whole["rejected_ids"][3] == rows[7].ids.tolist()
    assert [a + b for a, b in zip(divided["prompt_ids"], divided["chosen_ids"], strict=True)] == list(
        whole["chosen_ids"]
    )
    assert [a + b for a, b in zip(divided["prompt_ids"], divided["rejected_ids"], strict=True)] == list(
        whole["rejected_ids"]
    )


def test_a_pair_goes_as_a_whole(tmp_path: Path) -> None:
    made = [
        {"prompt": "Say it: ", "chosen": "short", "rejected": "very " * 40},
        {"prompt": "Say it: ", "chosen": "short", "rejected": "brief"},
    ]
    source = load(tmp_path, "reward", made)
    rows = encode(source, max_length=20, truncation_mode=None)
    assert len(rows) == 2 and rows[0].where.row == rows[1].where.row == 2
    assert rows.too_long[:, 1].tolist() == [0, 1]
    cut = encode(source, max_length=20, truncation_mode="keep_start")
    assert len(cut) == 4 and cut.lengths.max() == 20
    prompt = int((rows.labels[: rows.starts[1]] == IGNORED).sum())
    none = encode(source, max_length=prompt, truncation_mode="keep_start")
    assert len(none) == 0 and len(none.dropped) == 4


def test_prompts_train_nothing_and_are_never_cut(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    made: list[dict[str, Any]] = [
        {"prompt": [ASK], "answer": "Hello."},
        {"prompt": [{"role": "user", "content": "word " * 50}], "answer": "no"},
    ]
    source = load(tmp_path, "ppo", made)
    rows = encode(source, max_length=40, truncation_mode=None)
    tokenizer = AutoTokenizer.from_pretrained(locate())
    expected = tokenizer.apply_chat_template([ASK], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert make_prompts(rows)["input_ids"][0] == expected
    assert (rows.labels == IGNORED).all() and len(rows) == 1
    assert rows[0].example["columns"] == {"answer": "Hello."}
    assert np.array_equal(rows.too_long, [[0, 1]])


def test_a_method_reads_its_own_formats(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no format fits the columns prompt, completion"):
        load(tmp_path, "dpo", [{"prompt": "a", "completion": "b"}])
