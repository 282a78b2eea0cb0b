"""Faults of the rows."""

from __future__ import annotations

from tests.faults.materials import hold_out
from tests.faults.plants import Fault

from ftrun.checks.testing import World, dpo_full, ppo_full, reward_full, sft_full

D001 = Fault(
    "D001",
    "The columns have names that the method does not know.",
    method="all",
    earliest="recipe",
    source="axolotl#2890, axolotl#2832, axolotl#3742, trl#2083",
)


@D001.planted(sft_full, dpo_full, told="DATA002", at="recipe")
def columns_of_nobodys_format(world: World) -> None:
    world.rows = [{f"my_{name}": value for name, value in row.items()} for row in world.rows]


D002 = Fault(
    "D002",
    "The column with the answers is not used.",
    method="sft",
    earliest="data",
    source="axolotl#2254, axolotl#2890",
)


@D002.planted(sft_full, told="DATA022", at="recipe")
def the_text_is_the_question(world: World) -> None:
    world.rows = [{"text": row["prompt"], "answer": row["completion"]} for row in world.rows]


D007 = Fault(
    "D007",
    "Answers are empty.",
    method="all",
    earliest="data",
    source="trl#2093, axolotl FAQ",
)


@D007.planted(sft_full, dpo_full, reward_full, told="DATA006", at="data")
def every_third_answer_is_empty(world: World) -> None:
    side = "chosen" if "chosen" in world.rows[0] else "completion"
    for row in world.rows[::3]:
        row[side] = ""


D008 = Fault(
    "D008",
    "Rows are there many times over.",
    method="all",
    earliest="data",
    source="axolotl#3427",
)


@D008.planted(sft_full, dpo_full, reward_full, told="DATA020", at="data")
def two_rows_are_all(world: World) -> None:
    world.rows = world.rows[:2] * 24


D009 = Fault(
    "D009",
    "What is evaluated is trained as well.",
    method="all",
    earliest="data",
    source="r/MachineLearning, 15 March 2026 (preflight-ml), peft-doctor",
)


@D009.planted(sft_full, dpo_full, reward_full, ppo_full, told="DATA021", at="data")
def the_same_file_twice(world: World) -> None:
    world.eval_rows = list(world.rows)
    hold_out(world)
    world.recipe["data"]["eval"] = [{"path": "eval.jsonl"}]


@D009.planted(sft_full, told="DATA021", at="data")
def the_same_questions_respelt(world: World) -> None:
    world.eval_rows = [
        {"prompt": f"{row['prompt'].upper().replace(' ', '  ').strip()} ", "completion": row["completion"]}
        for row in world.rows[:8]
    ]
    hold_out(world)
    world.recipe["data"]["eval"] = [{"path": "eval.jsonl"}]


D012 = Fault(
    "D012",
    "Rows come in a sorted order.",
    method="all",
    earliest="data",
    source="axolotl#2845, AReaL#1292",
)


@D012.planted(sft_full, told="DATA023", at="data", note="ftrun shuffles unless the recipe says otherwise.")
def rows_are_sorted_by_their_answer(world: World) -> None:
    for row in world.rows:
        row["completion"] = row["completion"].split()[-1]
    world.rows.sort(key=lambda row: str(row["completion"]))
    world.recipe["training"] |= {"train_sampling_strategy": "sequential", "max_length": 1024}


X009 = Fault(
    "X009",
    "Prompt and answer are swapped.",
    method="sft",
    earliest="data",
    source="no public report",
)


@X009.planted(sft_full, told="DATA026", at="data")
def answers_ask(world: World) -> None:
    world.rows = [{"prompt": row["completion"], "completion": row["prompt"].strip()} for row in world.rows]


@X009.planted(sft_full, told="DATA026", at="data")
def columns_are_mapped_crosswise(world: World) -> None:
    world.rows = [{"question": row["prompt"], "answer": row["completion"]} for row in world.rows]
    world.recipe["data"]["train"][0]["columns"] = {"prompt": "answer", "completion": "question"}
