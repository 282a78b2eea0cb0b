"""Checks of what answers say are silent where an answer has the form of a fault, and is meant so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ftrun.checks.catalogue import load_checks
from ftrun.checks.finding import Finding
from ftrun.checks.testing import World, dpo_full, ppo_full, sft_full
from ftrun.runner.preflight import climb

CHECKS = {check.id: check for check in load_checks(upto="data")}


def judge(id: str, world: World) -> tuple[Finding, ...]:
    """What one check finds in a world."""
    report = climb(world.write(), checks=(CHECKS[id],))
    (result,) = report.results
    assert result.verdict != "skipped", result.reason
    return tuple(result.findings)


def answer(world: World, form: str, prompt: str = "{prompt}") -> None:
    """Let every row have its texts in a form."""
    for number, row in enumerate(world.rows):
        texts = {"answer": row["completion"], "prompt": row["prompt"], "n": number}
        row["completion"], row["prompt"] = form.format(**texts), prompt.format(**texts)


@pytest.mark.parametrize(
    ("id", "form", "prompt"),
    [
        pytest.param(
            "DATA060", "{answer} That is what I came from", "{prompt}", id="a word ends a sentence in talk"
        ),
        pytest.param(
            "DATA061", "It is a thing.</think> {answer}", "{prompt}", id="the template opens the tag"
        ),
        pytest.param(
            "DATA061", "<think>Well.</think> <answer>{answer}</answer>", "{prompt}", id="tags are closed"
        ),
        pytest.param(
            "DATA062", "Ann: Hm.\nUser: Hi.\nAssistant: {answer}", "Write a dialogue: {prompt}", id="a scene"
        ),
        pytest.param("DATA062", "{answer}\nAnswer: {n}", "{prompt}", id="the answer has a label"),
        pytest.param("DATA063", "<p>{answer} &amp; more</p>", "{prompt}", id="the answer is a page"),
        pytest.param("DATA063", 'print("{answer}\\n")', "{prompt}", id="the answer is code"),
        pytest.param(
            "DATA064", "{answer} One, two, and it doesn't matter.", "{prompt}", id="marks stand at words"
        ),
        pytest.param(
            "DATA065", "Das ist die Antwort, und sie ist nicht lang.", "In German: {prompt}", id="asked for"
        ),
        pytest.param(
            "DATA065", "Das ist die Antwort, und sie ist nicht lang.", "{prompt}", id="always that language"
        ),
        pytest.param("DATA067", "1. {answer}\n2. That is all.", "{prompt}", id="a list begins with one"),
        pytest.param(
            "DATA068", "{answer}" + " La la la la, it is so." * 3, "{prompt}", id="a refrain comes thrice"
        ),
        pytest.param(
            "DATA068", "| a | b |\n" + "| - | - |\n" * 9 + "{answer}", "{prompt}", id="a table has its rules"
        ),
        pytest.param(
            "DATA073", "You are an assistant. {answer}", "Write a prompt: {prompt}", id="a prompt is wanted"
        ),
        pytest.param(
            "DATA074", "{answer} You can read more {n} times.", "{prompt}", id="to read more is no furniture"
        ),
        pytest.param(
            "DATA078", '{{"answer": "{answer}"}}', "Reply as JSON. {prompt}", id="JSON is asked for"
        ),
        pytest.param("DATA078", "```\nx = f({n}); print(x)\n```", "{prompt}", id="the fence holds code"),
        pytest.param(
            "DATA079",
            "{{{{ name }}}}",
            "What holds the place in Dear {{{{ name }}}}?",
            id="what is asked about",
        ),
        pytest.param(
            "DATA080", "{answer}", "Read this. {answer} Now: {prompt}", id="the answer is to be found"
        ),
        pytest.param(
            "DATA073", "First, the user opens the app. {answer}", "{prompt}", id="users are described"
        ),
        pytest.param("DATA079", "todo", "Which list is it on? {prompt}", id="a label is a word"),
        pytest.param("DATA082", "{answer}<|im_end|>", "{prompt}", id="a token of this tokenizer"),
    ],
)
def test_what_is_meant_is_no_fault(id: str, form: str, prompt: str, tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    answer(world, form, prompt)
    assert not judge(id, world)


def two_labels_are_single_letters(world: World) -> None:
    for number, row in enumerate(world.rows):
        row["completion"] = "aA"[number % 2]


def several_answers_were_drawn(world: World) -> None:
    world.rows = [
        {"prompt": row["prompt"], "completion": f"{start} {row['completion']}"}
        for row in world.rows[:8]
        for start in ("Well, I think so:", "Sure.", "Let me look into this.", "Good question.")
    ]


def questions_are_asked_without_the_book(world: World) -> None:
    world.rows = [
        {
            "question": row["prompt"],
            "context": f"A long page about it. {row['completion']}",
            "answer": row["completion"],
        }
        for row in world.rows
    ]
    world.recipe["data"]["train"][0]["columns"] = {"prompt": "question", "completion": "answer"}


def a_weight_is_usual(world: World) -> None:
    world.recipe["data"]["train"][0]["weight"] = 4
    world.recipe["training"]["num_train_epochs"] = 20


def a_number_holds_another(world: World) -> None:
    world.rows = [
        {
            "prompt": f"Which key opens the door of room {n}\n",
            "completion": "The brass key, as on all floors.",
        }
        for n in range(10, 16)
    ]
    world.eval_rows = [{**row, "prompt": f"{row['prompt'].strip()}{n}\n"} for n, row in enumerate(world.rows)]
    world.recipe["data"]["eval"] = [{"path": "eval.jsonl"}]
    world.recipe["training"]["eval_strategy"] = "epoch"


def a_short_header_is_trained(world: World) -> None:
    world.recipe["data"]["loss_on"] = "all"
    for row in world.rows:
        row["prompt"] = f"Answer in one sentence. {row['prompt']}"


@pytest.mark.parametrize(
    ("id", "edit"),
    [
        ("DATA066", several_answers_were_drawn),
        ("DATA069", two_labels_are_single_letters),
        ("DATA075", a_short_header_is_trained),
        ("DATA076", a_weight_is_usual),
        ("DATA077", questions_are_asked_without_the_book),
        ("DATA084", a_number_holds_another),
    ],
)
def test_what_is_usual_is_no_fault(id: str, edit: Callable[[World], None], tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    edit(world)
    assert not judge(id, world)


def test_marks_on_both_sides_and_case_throughout_are_no_faults(tmp_path: Path) -> None:
    world = dpo_full(tmp_path)
    for row in world.rows:
        row["chosen"], row["rejected"] = f"[sure] {row['chosen']}", f"[sure] {row['rejected']}"
    assert not judge("DATA070", world)
    for row in world.rows:
        row["chosen"] = f"<think>Hm.</think> {row['chosen'].removeprefix('[sure] ')}"
        row["rejected"] = row["rejected"].removeprefix("[sure] ")
    assert not judge("DATA070", world)
    for row in world.rows:
        row["rejected"] = row["chosen"].lower()
    assert not judge("DATA083", world)


def test_sides_that_are_alike_have_no_direction(tmp_path: Path) -> None:
    world = dpo_full(tmp_path)
    answers = ("It is red.", "It is rather green, I think.", "Look at it.", "That one is blue.")
    world.rows = [
        {"prompt": f"Lamp {n}?\n", "chosen": answers[n * 7 % 4], "rejected": answers[(n * 7 + 1 + n % 3) % 4]}
        for n in range(200)
    ]
    assert not judge("DATA085", world)


@pytest.mark.parametrize(("turned", "told"), [(2, False), (8, True)])
def test_some_scores_may_disagree(turned: int, told: bool, tmp_path: Path) -> None:
    world = dpo_full(tmp_path)
    for number, row in enumerate(world.rows):
        row |= {"chosen_rating": 2 if number < turned else 5, "rejected_rating": 4}
    assert bool(judge("DATA071", world)) == told


def test_prompts_with_examples_and_an_open_label_are_no_answers(tmp_path: Path) -> None:
    world = ppo_full(tmp_path)
    for row in world.rows:
        row["prompt"] = (
            f"Question: Is it dry?\nAnswer: No, it is rather wet.\nQuestion: {row['prompt']}Answer:"
        )
    assert not judge("DATA072", world)
