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


@pytest.mark.parametrize(
    ("script", "folder", "names"),
    [
        ("make_support_data.py", DATA, ["support.train.jsonl", "support.heldout.jsonl"]),
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
