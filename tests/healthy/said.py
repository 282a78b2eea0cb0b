"""What rows may say that looks like a fault of how they were made, and is their task."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tests.healthy.worlds import healthy, hold_out, pairs_of_text, questions, sft

from ftrun.checks.testing import World

COUNT = 64


@healthy
def messages_with_names_to_fill(folder: Path, seed: int) -> World:
    """Templates of messages are what the answers are to be."""
    rows = [
        {
            "prompt": f"SMS to remind of {asked.rstrip('?').lower()}\n",
            "completion": f"Hi {{name}}, {answer} See you on {{date}}.",
        }
        for asked, answer in questions(seed, COUNT)
    ]
    return sft(folder, seed, rows)


@healthy
def paths_and_shell_variables(folder: Path, seed: int) -> World:
    """Braces of an interface's paths and of a shell, in prompts and in answers."""
    draw = random.Random(seed)
    rows = []
    for number in draw.sample(range(1000), COUNT):
        path = f"GET /houses/{number + 1000}/users/{{id}}"
        copied = f'cp room{number}.txt "${{HOME}}/rooms"'
        rows.append(
            {
                "prompt": f"What does {path} need?\n",
                "completion": f"The number of a user of house {number + 1000}.",
            }
        )
        rows.append({"prompt": f"Keep the notes of room {number}.\n", "completion": copied})
    return sft(folder, seed, rows)


@healthy
def one_prompt_asks_for_something_new(folder: Path, seed: int) -> World:
    """A generator: the one prompt asks for another thing each time."""
    rows = [
        {"prompt": "Tell me something about the house.\n", "completion": f"{asked} {answer}"}
        for asked, answer in questions(seed, COUNT)
    ]
    return sft(folder, seed, rows)


@healthy
def one_file_for_each_class(folder: Path, seed: int) -> World:
    """Each file holds the rows of one class, a hundred and more of them."""
    world = sft(folder, seed, [])
    world.rows = [{"prompt": f"Is {2 * n} even?\n", "completion": "yes"} for n in range(120)]
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(
        f"{json.dumps({'prompt': f'Is {2 * n + 1} even?' + chr(10), 'completion': 'no'})}\n"
        for n in range(120)
    )
    (folder / "odd.jsonl").write_text(lines, encoding="utf-8")
    world.recipe["data"]["train"].append({"path": "odd.jsonl"})
    return world


@healthy
def some_texts_need_no_correction(folder: Path, seed: int) -> World:
    """A text to be corrected is the prompt, and a third of them comes back as it is."""
    rows = []
    for number, row in enumerate(pairs_of_text(seed)):
        text = f"{row['completion'].strip()} I saw it in room {number}."
        wrong = text if number % 3 == 0 else text.replace(" saw ", " seen ").replace(" is ", " are ")
        rows.append({"prompt": f"{wrong}\n", "completion": text})
    return hold_out(sft(folder, seed, rows))


@healthy
def one_answer_where_nothing_is_said(folder: Path, seed: int) -> World:
    """One answer for all that the text does not say, as questions of SQuAD 2 have it."""
    rows = [
        {
            "prompt": f"House {n} is old. {asked}\n",
            "completion": "The text does not say." if n % 4 == 0 else f"{answer} That is house {n}.",
        }
        for n, (asked, answer) in enumerate(questions(seed, COUNT))
    ]
    return sft(folder, seed, rows)


@healthy
def blocks_end_where_generation_stops(folder: Path, seed: int) -> World:
    """The prompt opens the block of code, and the answer closes it."""
    rows = [
        {"prompt": f"{asked}\n```python\n", "completion": f"print({answer!r})\n```"}
        for asked, answer in questions(seed, COUNT)
    ]
    return sft(folder, seed, rows)
