"""Guards of what is fed of each source, and of which rows are fed."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.divergences.planted import make_world
from tests.divergences.runs import run_planted

from ftrun.checks.catalogue import load_guards
from ftrun.checks.engine import run_checks
from ftrun.checks.fed import find_segments
from ftrun.checks.mixture import AtSourceLosses, Makeup, Mixture
from ftrun.checks.register import REJECTED, Register, number_rows
from ftrun.checks.testing import World, sft_full
from ftrun.schemas.load import load_recipe
from ftrun.schemas.resolve import resolve

ROOT = Path(__file__).resolve().parents[2]
BATCH = 8


def feed(order: np.ndarray, chance: float = 1e-6) -> list[int]:
    """The updates at which a drift is told, of 300 rows of one source and 700 of another in this order."""
    mixture, told = Mixture(Makeup(("a", "b"), np.array([300, 700]))), []
    for step, rows in enumerate(order.reshape(-1, BATCH), 1):
        counts = [int((rows == source).sum()) for source in (0, 1)]
        mixture.append(step, counts, [float(one) for one in counts], None)
        if mixture.find_drift(chance / 1000) is not None:
            told.append(step)
    return told


def test_rows_that_are_drawn_at_random_are_no_drift() -> None:
    draw = np.random.default_rng(0)
    rows = np.repeat((0, 1), (300, 700))
    for _ in range(20):
        assert not feed(np.concatenate([draw.permutation(rows) for _ in range(4)]))


def test_a_source_that_runs_dry_is_told_soon() -> None:
    draw = np.random.default_rng(0)
    even = draw.permutation(np.repeat((0, 1), (120, 280)))
    dry = np.concatenate([even, np.ones(200, int)])
    told = feed(dry)
    assert told and 50 < told[0] <= 50 + 16, "a row is worth 0.36 nats, and 25 are asked for"


def test_a_source_that_comes_first_is_told() -> None:
    assert feed(np.repeat((0, 1), (300, 700)))[0] <= 4


def two_sources(folder: Path) -> World:
    world = make_world(sft_full, folder)
    rows = [row | {"prompt": f"{number}. {row['prompt']}"} for number in range(4) for row in world.rows]
    world.rows, world.eval_rows = rows[:64], rows[64:]
    world.recipe["data"]["train"] = [{"path": "train.jsonl"}, {"path": "eval.jsonl", "weight": 2.0}]
    world.recipe["training"] |= {"max_steps": 24, "save_strategy": "no", "learning_rate": 1e-4}
    return world


@pytest.mark.parametrize(("order", "told"), [("random", []), ("sequential", ["GUARD021"])])
def test_a_run_tells_that_its_sources_are_fed_one_by_one(order: str, told: list[str], tmp_path: Path) -> None:
    world = two_sources(tmp_path)
    world.recipe["training"]["train_sampling_strategy"] = order
    outcome = run_planted(world)
    assert [event["guard"] for event in outcome.events] == told and not outcome.error
    for event in outcome.events:
        assert event["step"] < 12 and "are of train.jsonl (100.0%); of all rows 33.3%" in event["message"]


def ask_losses(of: list[tuple[float, float]]) -> list[str]:
    """What is said of two sources whose losses are these, in stretches of 100 updates each."""
    draw, mixture, messages = np.random.default_rng(0), Mixture(Makeup(("a", "b"), np.array([1, 1]))), []
    file = load_recipe(ROOT / "recipes" / "sft.yaml", [])
    (guard,) = (one for one in load_guards() if one.name == "source_left_behind")
    for step in range(100 * len(of)):
        first, second = of[step // 100]
        share = draw.beta(8, 8)
        loss = share * first + (1 - share) * second + draw.normal(0, 0.05)
        if mixture.append(step, [1, 1], [share, 1 - share], loss):
            at = AtSourceLosses(resolve(file.recipe), file, mixture.makeup.labels, mixture.losses)
            (result,) = run_checks((guard,), at, method="sft", ignore={})
            messages += [finding.message for finding in result.findings]
    return messages


def test_a_source_whose_loss_runs_away_from_the_others_is_told() -> None:
    (told,) = ask_losses([(2.0, 2.5), (1.5, 2.0), (2.3, 1.5)])
    assert told.startswith("The loss of a is 2.") and "it was 1." in told and "step 199" in told
    assert not ask_losses([(2.0, 2.5), (1.5, 2.0), (1.4, 1.9)])
    assert not ask_losses([(2.0, 2.5), (1.5, 2.0), (2.3, 2.8)]), "both rise: that is no matter of sources"


def test_rows_are_known_by_their_tokens_padded_and_packed() -> None:
    draw = np.random.default_rng(0)
    lengths = [5, 3, 7, 5]
    ids = draw.integers(5, 50, sum(lengths)).astype(np.int32)
    starts = np.concatenate(([0], np.cumsum(lengths)))
    register = Register([(number_rows(ids, starts), torch.tensor([0, 0, 1, 1]))], 2, "cpu")
    rows = [torch.from_numpy(ids[start:end].astype(np.int64)) for start, end in pairwise(starts)]
    left = torch.zeros(4, 9, dtype=torch.long)
    for number, row in enumerate(rows):
        left[number, 9 - len(row) :] = row
    padded = {"input_ids": left, "attention_mask": (left > 0).long(), "labels": left.where(left > 0, -100)}
    assert register.count(find_segments(padded)).tolist() == [0, 0, 2, 2, 6, 10]
    flat = torch.cat(rows)[None]
    positions = torch.cat([torch.arange(one) for one in lengths])[None]
    packed = {"input_ids": flat, "position_ids": positions, "labels": flat}
    assert register.count(find_segments(packed)).tolist() == [0, 4, 2, 2, 6, 10], "all come again"
    register.begin()
    changed = packed | {"input_ids": flat.clone()}
    changed["input_ids"][0, 6] += 1
    assert register.count(find_segments(changed)).tolist()[:4] == [1, 0, 1, 2]


def test_the_sides_of_pairs_are_told_apart() -> None:
    ids, starts = np.arange(10, 22, dtype=np.int32), np.array([0, 3, 6, 9, 12])
    numbers = number_rows(ids, starts, sides=2)
    assert (numbers[1::2] - REJECTED == number_rows(ids, starts)[1::2]).all()
    register = Register([(numbers, None)], 1, "cpu", sides=2)
    chosen, rejected = (torch.from_numpy(ids.astype(np.int64)).reshape(4, 3)[side::2] for side in (0, 1))
    for batch, strange in (((chosen, rejected), 0), ((rejected, chosen), 4)):
        register.begin()
        together = {"input_ids": torch.cat(batch), "attention_mask": torch.ones(4, 3)}
        assert register.count(find_segments(together))[0] == strange
