"""Faults of a fourth round, from reports and blind trials: what rows say."""

from __future__ import annotations

import json
from base64 import b64encode

from tests.faults.plants import Fault
from tests.faults.third_material import prose, prose_chat, prose_dpo, prose_ppo

from ftrun.checks.testing import World

OURS = "ours"
NO_PPO = "TRL's PPO trainer takes tokens: what a file holds is up to the script."


X541 = Fault(
    "X541", "The context of rows of Dolly's layout is not read.", "sft", "data", "unslothai/unsloth#11292"
)


@X541.planted(prose, told="DATA077", at="data")
def contexts_of_some_are_left_out(world: World) -> None:
    world.rows = [
        {
            "instruction": row["prompt"],
            "context": f"Notes of meeting {n}: {row['completion'][::-1]}" if n % 5 < 2 else "",
            "response": row["completion"],
        }
        for n, row in enumerate(world.rows)
    ]
    world.recipe["data"]["train"] = [
        {"path": "train.jsonl", "format": "alpaca", "columns": {"output": "response"}}
    ]


X542 = Fault("X542", "A column of system messages is not read.", "sft", "data", OURS)


@X542.planted(prose, told="DATA077", at="data")
def system_prompts_are_left_out(world: World) -> None:
    for number, row in enumerate(world.rows):
        row["system_prompt"] = ("Answer as a pirate.", "Answer in one line.", "Be formal.")[number % 3]


X543 = Fault("X543", "Columns q and a are mapped the other way round.", "sft", "data", OURS)


@X543.planted(prose, told="DATA026", at="data")
def letters_are_exchanged(world: World) -> None:
    world.rows = [{"q": row["prompt"], "a": row["completion"]} for row in world.rows]
    world.recipe["data"]["train"][0]["columns"] = {"prompt": "a", "completion": "q"}


X544 = Fault(
    "X544", "All rows have one prompt, which refers to a question that is not there.", "sft", "data", OURS
)


@X544.planted(prose_chat, told="DATA096", at="data")
def the_question_is_missing(world: World) -> None:
    for row in world.rows:
        row["messages"][-2]["content"] = "Answer the question."


X545 = Fault("X545", "All prompts of a rollout are one.", "ppo", "data", OURS)


@X545.planted(prose_ppo, told="DATA020", at="data", trl=NO_PPO)
def one_prompt_is_repeated(world: World) -> None:
    world.rows = [dict(world.rows[0]) for _ in world.rows]


X546 = Fault("X546", "A fifth of the answers repeats its prompt.", "sft", "data", OURS)


@X546.planted(prose, told="DATA043", at="data")
def a_fifth_repeats_its_prompt(world: World) -> None:
    for row in world.rows[::5]:
        row["completion"] = row["prompt"] + row["completion"]


@X546.planted(prose_chat, told="DATA043", at="data")
def a_quarter_is_its_prompt(world: World) -> None:
    for row in world.rows[::4]:
        row["messages"][-1]["content"] = row["messages"][-2]["content"]


X547 = Fault("X547", "The reference stands in a fifth of the prompts.", "sft", "data", "herniqeu/extract0#1")


@X547.planted(prose, told="DATA080", at="data")
def the_reference_is_shown(world: World) -> None:
    for row in world.rows[::5]:
        row["prompt"] = f"{row['prompt']}\nReference: {row['completion'].strip()}\nAnswer:"


X548 = Fault("X548", "A quarter of the questions stands in another model's template.", "sft", "data", OURS)


@X548.planted(prose_chat, told="DATA081", at="data")
def a_quarter_is_of_another_template(world: World) -> None:
    for number, row in enumerate(world.rows[::4]):
        frame = ("<s>[INST] {} [/INST]", "### Instruction:\n{}\n\n### Response:")[number % 2]
        row["messages"][-2]["content"] = frame.format(row["messages"][-2]["content"])


X549 = Fault("X549", "Three answers in ten begin with a label.", "all", "data", OURS)


@X549.planted(prose, told="DATA100", at="data")
def a_label_of_a_template(world: World) -> None:
    for row in world.rows[::3]:
        row["completion"] = f"### Response:\n{row['completion']}"


@X549.planted(prose_dpo, told="DATA100", at="data")
def a_label_on_one_side(world: World) -> None:
    for row in world.rows[::3]:
        row["chosen"] = f"Assistant: {row['chosen']}"


X550 = Fault(
    "X550", "Three answers in ten are records of a data set, as Python writes them.", "sft", "data", OURS
)


@X550.planted(prose, told="DATA057", at="data")
def some_records_as_text(world: World) -> None:
    for row in world.rows[::3]:
        row["completion"] = str({"text": [row["completion"]], "answer_start": [17]})


X551 = Fault("X551", "A fifth of the prompts is the template itself.", "sft", "data", OURS)


@X551.planted(prose, told="DATA055", at="data")
def a_fifth_is_the_template(world: World) -> None:
    for row in world.rows[::5]:
        row["prompt"] = "Question: {question}\nAnswer:"


X552 = Fault("X552", "The message of a service that failed is the answer of some rows.", "sft", "data", OURS)


@X552.planted(prose, told="DATA098", at="data")
def a_limit_was_reached(world: World) -> None:
    for number, row in enumerate(world.rows):
        row["prompt"] = f"{row['prompt'].rstrip()} (case {number})\n"
        if number % 10 == 0:
            row["completion"] = "Error: Rate limit reached for gpt-4. Please try again in 120ms."
        else:
            row["completion"] += f" This is case {number}."


X553 = Fault("X553", "Only one class of a task was exported.", "sft", "data", OURS)


@X553.planted(prose, told="DATA053", at="data")
def all_say_no(world: World) -> None:
    for number, row in enumerate(world.rows):
        row.update(prompt=f"Is case {number} urgent? {row['prompt']}", completion="no")


X554 = Fault("X554", "A part of the answers are pieces of a page.", "sft", "data", OURS)


@X554.planted(prose, told="DATA063", at="data")
def some_are_of_a_page(world: World) -> None:
    for row in world.rows[::4]:
        row["completion"] = f"<p>That&#39;s it.<br />{row['completion']}</p>"


X555 = Fault("X555", "A quarter of the answers ends within its JSON.", "sft", "data", OURS)


@X555.planted(prose, told="DATA097", at="data")
def json_is_cut(world: World) -> None:
    for number, row in enumerate(world.rows):
        text = json.dumps({"question": row["prompt"].strip(), "note": row["completion"], "sure": number})
        row["prompt"] = f"Give your answer as JSON. {row['prompt']}"
        row["completion"] = text if number % 4 else text[: len(text) * 2 // 3]


X556 = Fault("X556", "A fifth of the answers ends within a block of code.", "sft", "data", OURS)


@X556.planted(prose_chat, told="DATA097", at="data")
def code_is_cut(world: World) -> None:
    for row in world.rows[::5]:
        row["messages"][-1]["content"] = f"```python\n{row['messages'][-1]['content']}"


X557 = Fault("X557", "Some answers are encoded bytes.", "sft", "data", OURS)


@X557.planted(prose, told="DATA099", at="data")
def some_bytes(world: World) -> None:
    for row in world.rows[::10]:
        row["completion"] = b64encode((row["completion"] * 3).encode()).decode()


X558 = Fault("X558", "Rows about pictures train a model of text.", "sft", "data", OURS)


@X558.planted(prose_chat, told="DATA099", at="data")
def pictures_are_not_there(world: World) -> None:
    for row in world.rows[::3]:
        row["messages"][-2]["content"] = f"<image>\n{row['messages'][-2]['content']}"


X559 = Fault("X559", "In the last part of a file, answers have slipped by seven rows.", "sft", "data", OURS)


@X559.planted(prose, told="DATA052", at="data")
def the_last_part_slips(world: World) -> None:
    for number, row in enumerate(world.rows):
        row["prompt"] = f"{row['prompt'].rstrip()} (order {number * 7919} of shop{number * 31})\n"
        row["completion"] += f" This is for shop{number * 31}."
    answers = [row["completion"] for row in world.rows[128:]]
    for row, answer in zip(world.rows[128:], [*answers[7:], *answers[:7]], strict=True):
        row["completion"] = answer
