"""Faults of a fourth round, from reports and blind trials: pairs, prompts and sources."""

from __future__ import annotations

from typing import Any

from tests.faults.plants import Fault
from tests.faults.third_material import (
    prose,
    prose_chat,
    prose_dpo,
    prose_ppo,
    prose_reward,
    write_pairs,
    write_rows,
)
from tests.faults.third_rows_sets import evaluate, write_more

from ftrun.checks.testing import World

OURS, NO_PPO = "ours", "TRL 1.16 has no PPO"


def as_chats(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pairs with their prompt in both sides, as conversations."""
    return [
        {
            side: [
                {"role": "user", "content": row["prompt"].strip()},
                {"role": "assistant", "content": row[side]},
            ]
            for side in ("chosen", "rejected")
        }
        for row in rows
    ]


X591 = Fault("X591", "The column that names the winner is not read.", "dpo", "data", OURS)


@X591.planted(prose_dpo, prose_reward, told="DATA110", at="data")
def the_winner_is_in_a_column(world: World) -> None:
    world.recipe["data"]["train"][0]["columns"] = {"chosen": "response_a", "rejected": "response_b"}
    for number, row in enumerate(world.rows):
        better, worse = row.pop("chosen"), row.pop("rejected")
        swapped = number % 2
        row |= {
            "response_a": worse if swapped else better,
            "response_b": better if swapped else worse,
            "winner": "ab"[swapped],
        }


X592 = Fault("X592", "A third of the pairs differs in white space alone.", "dpo", "data", "camel-ai/owl#592")


@X592.planted(prose_dpo, prose_reward, told="DATA083", at="data")
def some_pairs_differ_in_white_space(world: World) -> None:
    for row in world.rows[::3]:
        row["rejected"] = f"{row['chosen']} \n"


X593 = Fault("X593", "The answers of pairs have the role of the user.", "dpo", "data", OURS)


@X593.planted(prose_dpo, prose_reward, told="DATA058", at="data")
def answers_are_the_users(world: World) -> None:
    world.rows = [
        {
            "prompt": [row["chosen"][0]],
            "chosen": [{**row["chosen"][1], "role": "user"}],
            "rejected": [{**row["rejected"][1], "role": "user"}],
        }
        for row in as_chats(world.rows)
    ]


X594 = Fault("X594", "Chosen and rejected begin with different prompts.", "dpo", "data", OURS)


@X594.planted(prose_dpo, prose_reward, told="DATA050", at="data")
def one_side_has_a_label_before_its_prompt(world: World) -> None:
    world.rows = as_chats(world.rows)
    for row in world.rows:
        row["rejected"][0]["content"] = f"Q: {row['rejected'][0]['content']}"


@X594.planted(prose_dpo, prose_reward, told="DATA050", at="data")
def later_turns_of_the_user_differ(world: World) -> None:
    world.rows = as_chats(world.rows)
    for row in world.rows:
        for side, asked in (
            ("chosen", "Thanks! Can you say it in one sentence?"),
            ("rejected", "Say it again."),
        ):
            answer = {"role": "assistant", "content": row[side][1]["content"][:60]}
            row[side] += [{"role": "user", "content": asked}, answer]


X595 = Fault("X595", "Every rejected answer is cut within a word.", "dpo", "data", "OpenRLHF#1311")


@X595.planted(
    prose_dpo,
    prose_reward,
    told=("DATA111", "DATA042"),
    at="data",
    note="What is cut is shorter as well, and both say that this alone tells the sides.",
)
def rejected_answers_are_cut(world: World) -> None:
    for row in world.rows:
        row["rejected"] = row["rejected"][: len(row["rejected"]) * 3 // 5]


X596 = Fault("X596", "Every chosen answer is joined with itself.", "dpo", "data", OURS)


@X596.planted(prose_dpo, prose_reward, told=("DATA068", "DATA042"), at="data")
def chosen_answers_come_twice(world: World) -> None:
    for row in world.rows:
        row["chosen"] += f" {row['chosen']}"


X597 = Fault("X597", "The held-out pairs have their sides exchanged.", "dpo", "data", OURS)


@X597.planted(prose_dpo, prose_reward, told="DATA085", at="data")
def the_held_out_file_is_turned(world: World) -> None:
    rows = write_pairs()
    world.rows = rows[:160]
    evaluate(world, [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows[160:]])


def _write_labels(count: int) -> list[dict[str, Any]]:
    """Lines of labels about a message, and lines about another one: the words are the same on both sides."""
    teams, things = (
        ("account", "shipping", "repair", "returns", "billing"),
        ("lamp", "clock", "chair", "table", "door"),
    )
    rows = []
    for number in range(count):
        team, thing, other = (
            teams[number % 5],
            things[number // 5 % 5],
            things[(number // 5 + 1 + number % 4) % 5],
        )
        rows.append(
            {
                "prompt": f"Message {number}: my {thing} is gone, please ask {team}.\n",
                "chosen": f"{team} | {thing} | {number % 7} days",
                "rejected": f"{team} | {other} | {number % 7} days",
            }
        )
    return rows


@X597.planted(prose_dpo, prose_reward, told="DATA085", at="data")
def a_source_of_labels_is_turned(world: World) -> None:
    rows = _write_labels(240)
    world.rows = rows[:140]
    write_more(world, [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows[140:]])


X598 = Fault("X598", "The answer that the reward compares with ends the prompt.", "ppo", "data", OURS)


@X598.planted(prose_ppo, told="DATA054", at="data", trl=NO_PPO)
def the_answer_ends_the_prompt(world: World) -> None:
    for row, whole in zip(world.rows, write_rows(), strict=True):
        row |= {"prompt": f"{row['prompt']}{whole['completion']}", "answer": whole["completion"]}


X599 = Fault("X599", "Prompts were rendered without what asks for an answer.", "ppo", "data", OURS)


@X599.planted(prose_ppo, told="DATA112", at="data", trl=NO_PPO)
def prompts_end_with_a_closed_turn(world: World) -> None:
    for row in world.rows:
        row["prompt"] = f"<|im_start|>user\n{row['prompt'].strip()}<|im_end|>\n"


X600 = Fault("X600", "max_prompt_length leaves hardly a prompt.", "ppo", "data", OURS)


@X600.planted(prose_ppo, told="PPO002", at="data", trl=NO_PPO)
def no_prompt_is_short_enough(world: World) -> None:
    world.recipe["training"]["max_prompt_length"] = 4


X601 = Fault("X601", "Conversations are trained, and plain text is evaluated.", "sft", "data", OURS)


@X601.planted(prose_chat, told="DATA113", at="data")
def the_evaluation_is_plain_text(world: World) -> None:
    rows = write_rows()
    world.rows = world.rows[:180]
    evaluate(world, rows[180:])


X602 = Fault("X602", "Training rows have a system message, held-out rows have none.", "sft", "data", OURS)


@X602.planted(prose_chat, told="DATA114", at="data")
def the_system_message_is_trained_alone(world: World) -> None:
    evaluate(world, world.rows[180:])
    head = {"role": "system", "content": "You are a helpful assistant named Alder."}
    world.rows = [{"messages": [head, *row["messages"]]} for row in world.rows[:180]]


X603 = Fault(
    "X603", "Each turn of a conversation became a row before rows were held out.", "sft", "data", OURS
)


@X603.planted(prose_chat, told="DATA115", at="data")
def beginnings_of_conversations_are_rows(world: World) -> None:
    messages = [row["messages"] for row in world.rows]
    whole = [one + other for one, other in zip(messages[::2], messages[1::2], strict=True)]
    world.rows = [{"messages": one[:end]} for one in whole for end in (2, 4)]


X604 = Fault("X604", "A weight leaves a handful of rows of a source.", "sft", "data", OURS)


@X604.planted(prose, told="DATA013", at="data")
def a_weight_leaves_three_rows(world: World) -> None:
    more = [{**row, "prompt": f"In short: {row['prompt']}"} for row in world.rows[120:]]
    world.rows = world.rows[:120]
    write_more(world, more, weight=0.025)


X605 = Fault("X605", "Two held-out rows choose the best checkpoint.", "sft", "data", OURS)


@X605.planted(prose, told="DATA116", at="data")
def two_rows_choose(world: World) -> None:
    evaluate(world, world.rows[-2:])
    world.rows = world.rows[:-2]
    world.recipe["training"]["load_best_model_at_end"] = True


X606 = Fault("X606", "User and assistant are exchanged in single exchanges.", "sft", "data", OURS)


@X606.planted(prose_chat, told="DATA058", at="data")
def single_exchanges_are_turned(world: World) -> None:
    for row in world.rows:
        for message, role in zip(row["messages"], ("assistant", "user"), strict=True):
            message["role"] = role


X607 = Fault("X607", "A file that is not the data stands in its place.", "sft", "recipe", OURS)


def _replace_the_data(world: World, text: str) -> None:
    (world.folder / "data.jsonl").write_text(text, encoding="utf-8")
    world.recipe["data"]["train"][0]["path"] = "data.jsonl"


@X607.planted(prose, told="DATA002", at="recipe")
def a_pointer_of_git_lfs(world: World) -> None:
    _replace_the_data(
        world, f"version https://git-lfs.github.com/spec/v1\noid sha256:{64 * '0'}\nsize 81920\n"
    )


@X607.planted(prose, told="DATA002", at="recipe")
def a_page_that_asks_to_sign_in(world: World) -> None:
    _replace_the_data(world, "<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n")


X608 = Fault("X608", "Rejected answers belong to other prompts, drawn at random.", "dpo", "data", OURS)


@X608.planted(prose_dpo, told=(), note="Answers to other prompts are also the usual synthetic negatives.")
def rejected_answers_are_drawn_at_random(world: World) -> None:
    chosen = [row["chosen"] for row in world.rows]
    for number, row in enumerate(world.rows):
        row["rejected"] = chosen[(number * 37 + 11) % len(chosen)]


X609 = Fault("X609", "A third of the pairs, anywhere, is the wrong way round.", "dpo", "data", OURS)


@X609.planted(prose_dpo, told=(), note="People who judge disagree about as often.")
def some_pairs_are_turned(world: World) -> None:
    for number, row in enumerate(world.rows):
        if number * 7 % 10 < 3:
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
