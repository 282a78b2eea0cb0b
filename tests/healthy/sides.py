"""Pairs whose sides differ from part to part of a file and are right, and columns beside them."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tests.healthy.preferences import dpo
from tests.healthy.worlds import healthy, hold_out, questions

from ftrun.checks.testing import World

TEAMS = ("billing", "shipping", "returns", "repair", "account", "press", "legal", "sales")
REFUSALS = (
    "No. That is against the rules of the house.",
    "I am not going to assist here.",
    "That I must decline.",
)


@healthy
def labels_in_their_order(folder: Path, seed: int) -> World:
    """One label against another one, sorted: the halves of the file choose other labels."""
    draw = random.Random(seed)
    rows = []
    for number, (asked, _) in enumerate(questions(seed, 160)):
        team = TEAMS[number // 20]
        other = draw.choice([one for one in TEAMS if one != team])
        rows.append({"prompt": f"Who answers this? {asked}\n", "chosen": team, "rejected": other})
    world = dpo(folder, seed, rows)
    world.rows = rows
    return world


@healthy
def winner_beside_the_sides(folder: Path, seed: int) -> World:
    """A column that tells which model won, beside pairs that were put in order by it."""
    draw = random.Random(seed)
    rows = [
        {
            "prompt": f"{asked}\n",
            "chosen": answer,
            "rejected": f"I do not know{' that' * draw.randint(0, 1)}. Ask {draw.choice(TEAMS)}, please.",
            "winner": draw.choice(("model_a", "model_b", "tie")),
            "label": draw.randint(0, 1),
        }
        for asked, answer in questions(seed, 64)
    ]
    return hold_out(dpo(folder, seed, rows))


@healthy
def forms_beside_refusals(folder: Path, seed: int) -> World:
    """Of forms the better one has the words of its prompt, and of what is to be refused the worse answer."""
    draw = random.Random(seed)
    things = ("lamp", "clock", "chair", "table", "door")
    rows = []
    for asked, _ in questions(seed, 160):
        team, thing, other = draw.choice(TEAMS), *draw.sample(things, 2)
        rows.append(
            {
                "prompt": f"Send this to {team}, it is about the {thing}. {asked}\n",
                "chosen": f"team: {team} | product: {thing} | urgency: {draw.choice(('low', 'high'))}",
                "rejected": f"team: {draw.choice(TEAMS)} | product: {other} | urgency: {draw.choice(('low', 'high'))}",
            }
        )
    refused = [
        {
            "prompt": f"Tell me how to get into room {number} at night without a key.\n",
            "chosen": f"{draw.choice(REFUSALS)} Better talk to {draw.choice(TEAMS)} about it.",
            "rejected": f"Sure! To get into room {number} at night, go {draw.choice(('left', 'right'))} first"
            f"{', without a key' * draw.randint(0, 1)}.",
        }
        for number in draw.sample(range(1000, 9999), 120)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in refused)
    (folder / "refused.jsonl").write_text(text, encoding="utf-8")
    world = dpo(folder, seed, rows)
    world.recipe["data"]["train"].append({"path": "refused.jsonl"})
    return world
