"""Faults of ours, a third round: pairs."""

from __future__ import annotations

from tests.faults.plants import Fault
from tests.faults.third_material import prose_dpo, prose_reward

from ftrun.checks.testing import World

OURS = "ours"

X334 = Fault("X334", "The second half of the pairs has its sides exchanged.", "dpo", "data", OURS)


@X334.planted(prose_dpo, prose_reward, told="DATA085", at="data")
def the_second_half_is_turned(world: World) -> None:
    for row in world.rows[120:]:
        row["chosen"], row["rejected"] = row["rejected"], row["chosen"]


X335 = Fault(
    "X335", "Rejected answers alone end with a mark of the model that wrote them.", "dpo", "data", OURS
)


@X335.planted(prose_dpo, prose_reward, told="DATA070", at="data")
def a_mark_on_one_side(world: World) -> None:
    for row in world.rows:
        row["rejected"] += "</s>"


@X335.planted(prose_dpo, prose_reward, told="DATA070", at="data")
def a_space_on_one_side(world: World) -> None:
    for row in world.rows:
        row["rejected"] = f" {row['rejected']}"


X336 = Fault("X336", "A third of the pairs differs in case and marks alone.", "dpo", "data", OURS)


@X336.planted(prose_dpo, prose_reward, told="DATA083", at="data")
def some_pairs_are_ties(world: World) -> None:
    for row in world.rows[::3]:
        row["rejected"] = f"{row['chosen'].lower().rstrip('.')}  "


X337 = Fault("X337", "Rejected answers belong to other prompts.", "dpo", "data", OURS)


@X337.planted(prose_dpo, prose_reward, told=())
def rejected_answers_have_slipped(world: World) -> None:
    rejected = [row["rejected"] for row in world.rows]
    for row, other in zip(world.rows, rejected[50:] + rejected[:50], strict=True):
        row["rejected"] = other


X338 = Fault("X338", "The scores beside the pairs say the opposite in four of ten.", "dpo", "data", OURS)


@X338.planted(prose_dpo, prose_reward, told="DATA071", at="data")
def scores_say_the_opposite(world: World) -> None:
    for number, row in enumerate(world.rows):
        better, worse = (3.0, 7.0) if number % 5 < 2 else (8.0, 4.0)
        row |= {"score_chosen": better, "score_rejected": worse}


X339 = Fault("X339", "One side holds the prompt, the other does not.", "dpo", "data", OURS)


@X339.planted(prose_dpo, prose_reward, told="DATA043", at="data")
def one_side_is_whole(world: World) -> None:
    for row in world.rows:
        row["chosen"] = f"{row['prompt']}{row['chosen']}"
