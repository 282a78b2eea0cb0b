"""Which rows train, how often, and that every row read is accounted for, whatever the configuration."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from transformers import AutoTokenizer

from ftrun.checks.rows import IGNORED, BadRow, LossOn, Rows, SourceRows
from ftrun.runner.data.digest import digest_rows
from ftrun.runner.data.encoding import encode_split
from ftrun.runner.data.splits import Split, count_rows, split_rows
from ftrun.runner.data.tables import make_dataset
from ftrun.runner.tiny import locate
from ftrun.schemas.errors import DataError


def source(
    count: int, name: str = "a", bad: int = 0, loss_on: LossOn = "completion", **example: str
) -> SourceRows:
    examples = [{"prompt": f"{name}{i}: ", "completion": f"answer {i}"} | example for i in range(count)]
    return SourceRows(
        label=f"{name}.jsonl",
        key="data.train.0",
        format="prompt_completion",
        columns=("prompt", "completion"),
        examples=examples,
        numbers=list(range(1, count + 1)),
        bad=tuple(BadRow(count + 1 + i, "broken") for i in range(bad)),
        loss_on=loss_on,
        loss_reason="",
    )


def split(
    train: tuple[SourceRows, ...],
    weights: list[float] | None = None,
    fraction: float | None = None,
    seed: int = 3,
    eval: tuple[SourceRows, ...] = (),
    eval_weights: list[float] | None = None,
) -> tuple[Split, Split | None]:
    return split_rows(
        train, weights or [1.0] * len(train), eval, eval_weights or [1.0] * len(eval), fraction, seed
    )


def encode(part: Split, **cut: Any) -> Rows:
    settings = {"max_length": None, "truncation_mode": "keep_start"} | cut
    return encode_split(part.origins, part.sources, AutoTokenizer.from_pretrained(locate()), **settings)


def times(origins: NDArray[np.int32]) -> Counter[tuple[int, int]]:
    return Counter((int(a), int(b)) for a, b in origins)


@pytest.mark.parametrize(
    ("weight", "seen", "unused", "repeated"),
    [
        (0.3, {0: 70, 1: 30}, 70, 0),
        (1.0, {1: 100}, 0, 0),
        (2.0, {2: 100}, 0, 100),
        (2.5, {2: 50, 3: 50}, 0, 150),
        (0.001, {0: 100}, 100, 0),
    ],
)
def test_weights(weight: float, seen: dict[int, int], unused: int, repeated: int) -> None:
    part, _ = split((source(100),), [weight])
    counted = Counter(times(part.origins)[0, i] for i in range(100))
    assert counted == seen
    assert (part.unused, part.repeated) == ((unused,), (repeated,))


def test_held_out_rows_never_train() -> None:
    part, held = split((source(50), source(30, "b")), [2.5, 0.5], fraction=0.25)
    assert held is not None
    assert len(held.origins) == 20 and max(times(held.origins).values()) == 1
    assert not times(part.origins).keys() & times(held.origins).keys()
    assert len(times(held.origins) | times(part.origins)) >= 50 + held.held_out[1]


@pytest.mark.parametrize(
    ("rows", "fraction", "held"), [(2, 0.01, 1), (2, 0.99, 1), (3, 0.5, 2), (1000, 0.05, 50)]
)
def test_a_fraction_leaves_rows_on_both_sides(rows: int, fraction: float, held: int) -> None:
    _, part = split((source(rows),), fraction=fraction)
    assert part is not None and len(part.origins) == held


def test_a_fraction_of_one_row_is_refused() -> None:
    with pytest.raises(DataError, match=r"data.eval.fraction needs at least two rows"):
        split((source(1),), fraction=0.5)


def test_the_seed_decides_and_nothing_else() -> None:
    def drawn(seed: int) -> list[list[int]]:
        part, held = split((source(40), source(40, "b")), [0.5, 1.5], fraction=0.2, seed=seed)
        assert held is not None
        return [part.origins.tolist(), held.origins.tolist()]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    # A source draws for itself: another beside it changes nothing.
    alone, _ = split((source(40),), [0.5])
    beside, _ = split((source(40), source(7, "b")), [0.5, 0.5])
    assert alone.origins.tolist() == beside.origins[beside.origins[:, 0] == 0].tolist()


def test_counts_add_up_over_random_configurations() -> None:
    chance = random.Random(9)
    for seed in range(150):
        sources = tuple(
            source(
                chance.randint(0, 9),
                name,
                bad=chance.randint(0, 3),
                completion=chance.choice(["", "yes " * 20]),
            )
            for name in "abc"[: chance.randint(1, 3)]
        )
        weights = [chance.choice([0.2, 0.3, 1.0, 1.0, 2.0, 2.5]) for _ in sources]
        rows = sum(len(one.examples) for one in sources)
        fraction = chance.choice([None, 0.1, 0.5]) if rows > 1 else None
        other = (
            (source(chance.randint(0, 5), "d", bad=1),) if fraction is None and chance.random() < 0.5 else ()
        )
        part, held = split(
            sources, weights, fraction, seed, other, [chance.choice([0.5, 1.0, 2.5])] * len(other)
        )
        cut = {
            "max_length": chance.choice([None, 4, 12]),
            "truncation_mode": chance.choice(["keep_start", "keep_end"]),
        }
        for one in (part, held):
            if one is None:
                continue
            encoded = encode(one, **cut)
            counts = count_rows(encoded, one)
            assert all(count.adds_up for count in counts), counts
            assert sum(count.kept for count in counts) == len(encoded) == len(make_dataset(encoded))
            assert sum(count.tokens for count in counts) == len(encoded.ids)
            assert sum(count.trained_tokens for count in counts) == int((encoded.labels != IGNORED).sum())
            assert (encoded.trained > 0).all()


def test_rows_that_train_nothing_are_dropped_and_counted() -> None:
    long = source(5, prompt="word " * 30)
    part, _ = split((source(3), long), [1.0, 2.0])
    rows = encode(part, max_length=10)
    assert rows.origins.tolist() == [[0, 0], [0, 1], [0, 2]]
    assert times(rows.dropped) == Counter({(1, i): 2 for i in range(5)})
    first, second = count_rows(rows, part)
    assert (first.kept, first.fully_masked) == (3, 0)
    assert (second.kept, second.fully_masked, second.repeated) == (0, 10, 5)
    assert len(encode(part, max_length=10, truncation_mode="keep_end")) == 13, "the answers are at the end"


def test_truncation_keeps_the_asked_side() -> None:
    part, _ = split((source(6, loss_on="all"),))
    whole = encode(part)
    start, end = (encode(part, max_length=6, truncation_mode=mode) for mode in ("keep_start", "keep_end"))
    for i, row in enumerate(whole):
        assert (
            start[i].ids.tolist() == row.ids.tolist()[:6]
            and start[i].labels.tolist() == row.labels.tolist()[:6]
        )
        assert (
            end[i].ids.tolist() == row.ids.tolist()[-6:]
            and end[i].labels.tolist() == row.labels.tolist()[-6:]
        )
        assert start[i].full_length == len(row.ids) and start[i].truncated and not row.truncated
    assert count_rows(start, part)[0].truncated == 6


def test_nothing_left_is_an_empty_data_set() -> None:
    for part in (split((source(0, bad=2),))[0], split((source(3),), [0.001])[0]):
        rows = encode(part)
        assert len(rows) == 0 and len(make_dataset(rows)) == 0
        assert all(count.adds_up for count in count_rows(rows, part))


def test_rows_that_cannot_be_read_are_named_before_their_number() -> None:
    """That none is left to divide follows from what is wrong with them."""
    with pytest.raises(DataError, match=r"a\.jsonl: row 1 cannot be read: broken; of 2 rows 0 can be read"):
        split((source(0, bad=2),), fraction=0.5)


def test_repeated_rows_are_copies_in_their_places() -> None:
    part, _ = split((source(3),), [2.0])
    rows = encode(part)
    assert [rows[i].where.row for i in range(6)] == [1, 2, 3, 1, 2, 3]
    assert rows[0].ids.tolist() == rows[3].ids.tolist() != rows[1].ids.tolist()


def test_a_digest_tells_rows_apart() -> None:
    part, _ = split((source(6),))
    rows = encode(part)
    assert digest_rows(rows) == digest_rows(encode(part))
    other, _ = split((source(6, loss_on="all"),))
    assert digest_rows(encode(other)) != digest_rows(rows)
    assert digest_rows(encode(part, max_length=5)) != digest_rows(rows)
