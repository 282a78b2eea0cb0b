"""Write the pairs of answers that `recipes/reward.yaml` and `recipes/dpo.yaml` train on.

The task is that of make_support_data.py: route a customer's message. The chosen answer is the line that is
true of the message; the rejected one names the wrong team, and half the time each other field is wrong too.
Both have the same fields in the same order, and every field has a word that is true of some other message, so
that neither length nor any word alone tells them apart. Held-out messages are new as they are there: in the
pairs of problem and product, and in the order numbers. No message is one of the support rows.

Usage: python .ci/make_preference_data.py [FOLDER]   (the folder is recipes/data unless given)
"""

import random
import re
import sys
from pathlib import Path

import make_support_data as support

TRAIN_PAIRS = 600
HELDOUT_PAIRS = 150
SEED = 21

Pair = dict[str, list[dict[str, str]]]

CHOICES = {
    "team": tuple(support.PROBLEMS),
    "product": support.PRODUCTS,
    "urgency": tuple(support.URGENCY),
    "order": ("given", "missing"),
}


def spoil(draw: random.Random, answer: str) -> str:
    """A routing line that is false of the message that `answer` is true of."""
    fields = dict(re.findall(r"(\w+): (\w+)", answer))
    wrong = ["team", *(name for name in ("product", "urgency", "order") if draw.random() < 0.5)]
    for name in wrong:
        fields[name] = draw.choice([value for value in CHOICES[name] if value != fields[name]])
    return " | ".join(f"{name}: {value}" for name, value in fields.items())


def make_pairs(draw: random.Random, rows: list[support.Row]) -> list[Pair]:
    """The pair of each row: its message, its answer, and one that is wrong."""
    pairs = []
    for question, answer in (row["messages"] for row in rows):
        wrong = {"role": "assistant", "content": spoil(draw, answer["content"])}
        pairs.append({"prompt": [question], "chosen": [answer], "rejected": [wrong]})
    return pairs


def make_splits() -> tuple[list[Pair], list[Pair]]:
    """Return the training pairs and the held-out pairs, the same ones every time."""
    held, trained, orders = support.divide_parts(random.Random(support.SEED))
    known = {row["messages"][0]["content"] for split in support.make_splits() for row in split}
    draw = random.Random(SEED)
    draw.shuffle(held)
    draw.shuffle(trained)
    splits = []
    for count, parts, numbers in ((TRAIN_PAIRS, trained, orders[600:]), (HELDOUT_PAIRS, held, orders[:600])):
        rows = support.make_rows(draw, count + count // 10, parts, numbers)
        rows = [row for row in rows if row["messages"][0]["content"] not in known]
        splits.append(make_pairs(draw, rows[:count]))
    train, heldout = splits
    assert (len(train), len(heldout)) == (TRAIN_PAIRS, HELDOUT_PAIRS)
    return train, heldout


def main() -> None:
    """Write both files and print how many pairs each has."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "recipes" / "data"
    for name, pairs in zip(("train", "heldout"), make_splits(), strict=True):
        path = folder / f"preferences.{name}.jsonl"
        support.write_rows(path, pairs)
        print(f"{path.name}: {len(pairs)} pairs")


if __name__ == "__main__":
    main()
