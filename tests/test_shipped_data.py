"""The data that ships: its rows, its held-out part, and the scripts that made it and the tokenizer."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DATA = ROOT / "recipes" / "data"
SPLITS = {"train": 900, "heldout": 200}
ANSWER = re.compile(
    r"team: (billing|shipping|returns|repair|account) \| product: ([a-z]+) \| "
    r"urgency: (high|normal|low) \| order: (given|missing)"
)


def read_pairs(split: str) -> list[tuple[str, str]]:
    """Return the message and the answer of each row, and refuse rows of any other shape."""
    pairs = []
    for line in (DATA / f"support.{split}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        assert list(row) == ["messages"]
        assert [sorted(turn) for turn in row["messages"]] == [["content", "role"]] * 2
        assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"]
        pairs.append((row["messages"][0]["content"], row["messages"][1]["content"]))
    return pairs


@pytest.mark.parametrize("split", SPLITS)
def test_every_answer_is_true_of_its_message(split: str) -> None:
    pairs = read_pairs(split)
    assert len(pairs) == len(dict(pairs)) == SPLITS[split]
    for message, answer in pairs:
        fields = ANSWER.fullmatch(answer)
        assert fields, answer
        assert fields[2] in message.lower().split() or re.search(rf"\b{fields[2]}\b", message.lower()), (
            message
        )
        assert (fields[4] == "given") == bool(re.search(r"\d{4}", message)), message
        assert message == message.strip() and "{" not in message and "  " not in message, message
    for field in (1, 3, 4):
        values = [match[field] for _, answer in pairs if (match := ANSWER.fullmatch(answer))]
        assert min(values.count(value) for value in set(values)) >= len(pairs) / 10, (
            f"field {field} is lopsided"
        )


def read_problems(rows: dict[str, str]) -> set[str]:
    """Return the sentences that name the product, without greetings, in lower case."""
    problems = set()
    for message, answer in rows.items():
        fields = ANSWER.fullmatch(answer)
        assert fields
        sentences = re.split(r"[.!?] ?|team, |there, ", message.lower())
        problems |= {sentence for sentence in sentences if re.search(rf"\b{fields[2]}\b", sentence)}
    return problems


def test_held_out_messages_problems_and_order_numbers_are_new() -> None:
    train, heldout = dict(read_pairs("train")), dict(read_pairs("heldout"))
    assert not train.keys() & heldout.keys()
    assert not read_problems(train) & read_problems(heldout)
    numbers = [set(re.findall(r"\d{4}", " ".join(rows))) for rows in (train, heldout)]
    assert numbers[0] and numbers[1] and not numbers[0] & numbers[1]


def test_the_chosen_routing_is_true_and_the_rejected_one_is_not() -> None:
    asked: dict[str, set[str]] = {}
    known = {message for split in SPLITS for message, _ in read_pairs(split)}
    for split, count in (("train", 600), ("heldout", 150)):
        text = (DATA / f"preferences.{split}.jsonl").read_text(encoding="utf-8")
        pairs = [json.loads(line) for line in text.splitlines()]
        asked[split] = {pair["prompt"][0]["content"] for pair in pairs}
        assert len(pairs) == len(asked[split]) == count
        longer = 0
        for pair in pairs:
            (question,), (right,), (wrong,) = pair["prompt"], pair["chosen"], pair["rejected"]
            assert [question["role"], right["role"], wrong["role"]] == ["user", "assistant", "assistant"]
            true, false = (ANSWER.fullmatch(answer["content"]) for answer in (right, wrong))
            assert true and false and true[1] != false[1]
            assert true[2] in question["content"].lower()
            assert (true[4] == "given") == bool(re.search(r"\d{4}", question["content"]))
            longer += len(true[0]) > len(false[0])
        assert 0.3 <= longer / count <= 0.7  # length does not tell them apart
    assert not asked["train"] & asked["heldout"]
    assert not known & (asked["train"] | asked["heldout"])


@pytest.mark.parametrize(
    ("script", "folder", "names"),
    [
        ("make_support_data.py", DATA, ["support.train.jsonl", "support.heldout.jsonl"]),
        ("make_preference_data.py", DATA, ["preferences.train.jsonl", "preferences.heldout.jsonl"]),
        (
            "make_tiny_tokenizer.py",
            ROOT / "runner" / "ftrun" / "runner" / "tiny_tokenizer",
            ["tokenizer.json", "tokenizer_config.json"],
        ),
    ],
)
def test_the_scripts_write_what_is_committed(
    script: str, folder: Path, names: list[str], tmp_path: Path
) -> None:
    subprocess.run([sys.executable, ROOT / ".ci" / script, tmp_path], check=True, capture_output=True)
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    for name in names:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), (
            f"{name} is stale: run .ci/{script}"
        )
