"""Faults of ours, a third round: prompts, splits, labels and the recipe's hold on the data."""

from __future__ import annotations

import json
from typing import Any

from tests.faults.materials import write_template
from tests.faults.plants import Fault
from tests.faults.third_material import prose, prose_chat, prose_ppo, write_rows

from ftrun.checks.testing import World

OURS, NO_PPO = "ours", "TRL 1.16 has no PPO"


def evaluate(world: World, rows: list[dict[str, Any]]) -> None:
    world.eval_rows = rows
    world.recipe["data"]["eval"] = [{"path": "eval.jsonl"}]
    world.recipe["training"]["eval_strategy"] = "epoch"


def write_more(world: World, rows: list[dict[str, Any]], **source: Any) -> None:
    """A second source beside the first."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (world.folder / "more.jsonl").write_text(text, encoding="utf-8")
    world.recipe["data"]["train"].append({"path": "more.jsonl", **source})


X317 = Fault("X317", "Evaluation rows are training rows, respelt.", "sft", "data", OURS)


@X317.planted(prose, told="DATA021", at="data")
def evaluation_is_respelt(world: World) -> None:
    evaluate(
        world,
        [{key: f"  {text.lower().strip()}  " for key, text in row.items()} for row in world.rows[:60]],
    )


X318 = Fault("X318", "Evaluation rows are training rows in another frame.", "sft", "data", OURS)


@X318.planted(prose, told="DATA084", at="data")
def evaluation_is_framed(world: World) -> None:
    evaluate(
        world,
        [{**row, "prompt": f"Question: {row['prompt'].strip()}\nAnswer:"} for row in world.rows[:60]],
    )


X319 = Fault("X319", "The label stands at the end of the prompt.", "sft", "data", OURS)


@X319.planted(prose, told="DATA054", at="data")
def the_answer_is_given(world: World) -> None:
    for row in world.rows:
        row["prompt"] += f"Answer: {row['completion']}\n"


X323 = Fault(
    "X323", "A join gave every question the answers to all others of its group.", "sft", "data", OURS
)


@X323.planted(prose, told="DATA066", at="data")
def a_join_multiplies(world: World) -> None:
    world.rows = [
        {"prompt": one["prompt"], "completion": other["completion"]}
        for start in range(0, 60, 6)
        for one in world.rows[start : start + 6]
        for other in world.rows[start : start + 6]
    ]


X324 = Fault("X324", "Half of the conversations lack the system message.", "sft", "data", OURS)


@X324.planted(prose_chat, told=())
def half_has_a_system_message(world: World) -> None:
    for row in world.rows[::2]:
        row["messages"].insert(0, {"role": "system", "content": "You are Ada, the assistant of Acme."})


X325 = Fault("X325", "What tools say is in the answers, and is trained.", "sft", "data", OURS)


@X325.planted(prose, told="DATA062", at="data")
def observations_are_trained(world: World) -> None:
    for row in world.rows[::2]:
        row["completion"] = (
            f"Thought: I should look this up.\nAction: search[{row['prompt'].strip()}]\n"
            f"Observation: {row['completion']}"
            "\nThought: I know enough.\nFinal Answer: see above."
        )


X326 = Fault("X326", "Examples in the prompt hold the row's own answer.", "sft", "data", OURS)


@X326.planted(prose, told="DATA080", at="data")
def examples_hold_the_answer(world: World) -> None:
    for row in world.rows:
        row["prompt"] = (
            f"Example question: {row['prompt'].strip()}\nExample answer: {row['completion']}\n\n"
            f"Now answer: {row['prompt']}"
        )


X333 = Fault("X333", "One label is spelt in several ways.", "sft", "data", OURS)


@X333.planted(prose, told="DATA069", at="data")
def labels_are_spelt_otherwise(world: World) -> None:
    spellings = ("positive", "Positive", "negative", "Negative.", "neutral")
    for number, row in enumerate(world.rows):
        row["prompt"] = f"Sentiment of: {row['completion']}\n"
        row["completion"] = spellings[(number * 7) % 5]


X340 = Fault("X340", "Prompts to be answered hold their answer already.", "ppo", "data", OURS)


@X340.planted(prose_ppo, told="DATA072", at="data", trl=NO_PPO)
def prompts_are_whole_rows(world: World) -> None:
    world.rows = [{"prompt": f"Question: {row['prompt']}Answer: {row['completion']}"} for row in write_rows()]


X491 = Fault("X491", "Prompts to be answered are one sentence with another number.", "ppo", "data", OURS)


@X491.planted(prose_ppo, told=(), trl=NO_PPO)
def prompts_differ_in_a_number(world: World) -> None:
    world.rows = [{"prompt": f"Write a short reply to customer {n}.\n"} for n in range(240)]


X492 = Fault("X492", "`columns:` names the category for the answer.", "sft", "data", OURS)


@X492.planted(prose, told="DATA077", at="data")
def the_category_is_the_answer(world: World) -> None:
    world.rows = [
        {
            "question": row["prompt"],
            "answer": row["completion"],
            "category": ("science", "home", "history")[number % 3],
        }
        for number, row in enumerate(world.rows)
    ]
    world.recipe["data"]["train"][0]["columns"] = {"prompt": "question", "completion": "category"}


X493 = Fault("X493", "`columns:` leaves the text out that the instruction is about.", "sft", "data", OURS)


@X493.planted(prose, told="DATA077", at="data")
def the_context_is_left_out(world: World) -> None:
    world.rows = [
        {
            "instruction": "Name the question that this text answers.",
            "context": row["completion"],
            "response": row["prompt"].strip(),
        }
        for row in world.rows
    ]
    world.recipe["data"]["train"][0]["columns"] = {"prompt": "instruction", "completion": "response"}


X494 = Fault(
    "X494", "A weight was meant in percent: a few rows are repeated a hundred times.", "sft", "data", OURS
)


@X494.planted(prose, told="DATA076", at="data")
def a_weight_in_percent(world: World) -> None:
    write_more(world, world.rows[-8:], weight=60)
    world.rows = world.rows[:-8]


X495 = Fault("X495", "The chat template is that of Llama 2.", "sft", "data", OURS)


@X495.planted(prose_chat, told="DATA003", at="data")
def a_template_of_llama(world: World) -> None:
    write_template(
        world,
        "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
        "{% else %}{% generation %}{{ ' ' + m.content + ' </s>' }}{% endgeneration %}{% endif %}{% endfor %}",
    )


X496 = Fault("X496", "max_length leaves prompts and cuts their answers.", "sft", "data", OURS)


@X496.planted(prose, told="DATA011", at="data")
def answers_are_cut(world: World) -> None:
    world.recipe["training"]["max_length"] = 64


X497 = Fault("X497", "Most of what is trained is one instruction that all rows share.", "sft", "data", OURS)


@X497.planted(prose, told="DATA075", at="data")
def the_header_is_trained(world: World) -> None:
    header = "You answer for the members of a club. Keep to what is known, and write in whole sentences. " * 6
    world.recipe["data"]["loss_on"] = "all"
    for row in world.rows:
        row["prompt"] = f"{header}\n{row['prompt']}"


X498 = Fault("X498", "Packing cuts rows anywhere, for which the recipe asks by name.", "sft", "data", OURS)


@X498.planted(prose, told="DATA025", at="data")
def packs_are_wrapped(world: World) -> None:
    world.recipe["training"] |= {"packing": True, "packing_strategy": "wrapped", "max_length": 256}


X499 = Fault("X499", "Messages hold a prompt template of another kind.", "sft", "data", OURS)


@X499.planted(prose_chat, told="DATA081", at="data")
def a_template_in_the_message(world: World) -> None:
    for row in world.rows:
        asked = row["messages"][0]
        asked["content"] = (
            "Below is an instruction that describes a task. Write a response that completes the request.\n\n"
            f"### Instruction:\n{asked['content']}\n\n### Response:\n"
        )


X500 = Fault("X500", "Answers are pieces of a tokenizer, joined by spaces.", "sft", "data", OURS)


@X500.planted(prose, told="DATA064", at="data")
def answers_are_pieces(world: World) -> None:
    for row in world.rows:
        row["completion"] = "".join(f"▁{word}" for word in row["completion"].split())
