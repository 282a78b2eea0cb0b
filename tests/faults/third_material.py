"""Rows that read like those of a team: questions about everyday things, each answered in a few sentences."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from ftrun.checks.testing import World, dpo_full, ppo_full, reward_full, sft_chat, sft_full

COUNT = 240
FACTS: dict[str, tuple[str, str, str]] = {
    "sourdough bread": (
        "A starter of flour and water needs about a week before it raises a loaf",
        "The dough rests overnight, which gives the crust its taste",
        "Steam in the first fifteen minutes keeps the surface soft while the loaf rises",
    ),
    "bicycle tyres": (
        "Pressure is printed on the side wall of every tyre",
        "A puncture is found quickly when the tube is held under water",
        "Worn rubber shows small flat spots along the middle of the tread",
    ),
    "tomato plants": (
        "They want at least six hours of sun and dislike wet leaves",
        "Side shoots are pinched out so that the fruit grows larger",
        "Calcium from crushed egg shells helps against rot at the blossom end",
    ),
    "the water cycle": (
        "Heat from the sun lets water rise from seas and lakes as vapour",
        "High in the air the vapour cools and gathers into clouds",
        "Rain and snow bring the water back, and rivers carry it to the sea",
    ),
    "compound interest": (
        "Interest is paid on the deposit and on earlier interest as well",
        "At seven percent a sum doubles in roughly ten years",
        "Fees of one percent a year take a surprising share of the final amount",
    ),
    "photosynthesis": (
        "Leaves take in carbon dioxide through small pores on their underside",
        "Chlorophyll catches red and blue light and leaves the green",
        "Sugar is stored as starch, and oxygen is given off",
    ),
    "job interviews": (
        "Two short stories from earlier work convince more than a list of virtues",
        "Reading the annual report gives good questions for the end",
        "A note of thanks on the next day is remembered",
    ),
    "the Roman roads": (
        "Engineers laid stones in layers and raised the middle for drainage",
        "Milestones told travellers the distance to the next town",
        "Some stretches near Rome still carry traffic after two thousand years",
    ),
    "learning the guitar": (
        "Ten minutes every day do more than two hours on Sunday",
        "Sore fingertips harden after about three weeks",
        "Changing slowly between two chords trains the hand better than speed",
    ),
    "black holes": (
        "Light that crosses the horizon never returns to an observer outside",
        "Matter that falls in heats up and shines in X-rays",
        "Two of them that merge shake space, as LIGO measured in 2015",
    ),
    "coffee beans": (
        "Roasted beans taste best between one and four weeks after roasting",
        "A coarse grind suits the French press, a fine one the espresso machine",
        "Water just below boiling draws out sweetness without bitterness",
    ),
    "house insulation": (
        "Most warmth leaves an old house through its roof",
        "Mineral wool between the rafters pays for itself within eight winters",
        "A vapour barrier belongs on the warm side of the wall",
    ),
    "public libraries": (
        "A card is free in most towns, and electronic books come with it",
        "Librarians order titles that readers ask for",
        "Quiet rooms can be booked by students before examinations",
    ),
    "vaccination": (
        "A harmless part of the germ teaches the immune system what to look for",
        "Memory cells remain for years and answer faster the second time",
        "When most people are protected, infants are guarded too",
    ),
    "spreadsheet formulas": (
        "A dollar sign before row or column keeps the reference where it is",
        "Named ranges make long formulas readable for colleagues",
        "Pivot tables add up thousands of lines without a single formula",
    ),
    "hiking boots": (
        "They are bought in the afternoon, when feet are a little larger",
        "Leather is waxed twice a season so that it stays supple",
        "New pairs are worn at home for a week before the first tour",
    ),
    "solar panels": (
        "A roof facing south with thirty degrees of slope yields most",
        "The inverter turns direct current into what the household uses",
        "Dust costs about four percent a year and is washed off by rain",
    ),
    "chess openings": (
        "Pawns in the centre give the bishops room",
        "Castling early brings the king to safety and the rook into play",
        "Moving one piece twice loses time in the first ten moves",
    ),
    "beekeeping": (
        "A colony in summer has some forty thousand workers and one queen",
        "Honey is ripe when the bees have closed the cells with wax",
        "Mites are counted in autumn, before the colony forms its cluster",
    ),
    "time zones": (
        "The earth turns fifteen degrees in an hour, which gives twenty-four zones",
        "Railway companies demanded a common clock in the nineteenth century",
        "India and Nepal chose offsets that are no whole hours",
    ),
    "watercolour painting": (
        "Light colours are laid first, since white cannot be put over dark",
        "Heavy paper does not buckle when the wash is wet",
        "Salt on damp paint leaves small stars as it dries",
    ),
    "running a marathon": (
        "The long run grows by a tenth each week and shrinks every fourth one",
        "Most of the training is slow enough to talk",
        "Drinks are tried out beforehand, never on the day of the race",
    ),
    "glaciers": (
        "Snow that survives several summers is pressed into blue ice",
        "The ice flows downhill and carries rocks along its edges",
        "Moraines show how far the tongue reached in earlier centuries",
    ),
    "sewing machines": (
        "The needle is changed after eight hours of sewing",
        "A loop under the cloth means that the upper thread is too loose",
        "Lint beneath the plate is brushed away before oil is added",
    ),
}
ASKS = (
    "Explain {topic} to a beginner.",
    "What should I know about {topic}?",
    "Give me some advice on {topic}.",
    "My neighbour asked me about {topic}, and I had no answer. Can you help?",
    "Write a short paragraph about {topic} for our newsletter.",
    "Which facts about {topic} are the most surprising?",
    "Tell me something useful about {topic}, please.",
    "I give a talk on {topic} tomorrow. What must not be missing?",
    "Summarise what is known about {topic} in a few sentences.",
    "How would you describe {topic} in plain words?",
)
OPENINGS = (
    "",
    "There is more to {topic} than many people think. ",
    "Three things matter here. ",
    "It helps to begin with the basics of {topic}. ",
    "With {topic} it is worth looking closely. ",
    "In short: ",
    "Few people look into {topic} in any detail. ",
    "Here is what experience says about {topic}. ",
)
LINKS = (". ", ". Besides, ", ". It is also true that ", ". On top of that, ", ", and ")
WRONG = (
    "None of this matters much, though",
    "People say many other things about it",
    "I would not worry about the details",
    "You can look the rest up somewhere",
    "That is about all there is",
    "Some of it may depend on the weather",
)


def _sentences(draw: random.Random, topic: str, facts: list[str]) -> str:
    text = draw.choice(OPENINGS).format(topic=topic)
    for number, fact in enumerate(facts):
        link = draw.choice(LINKS) if number else ""
        text += link + (fact if not link or link == ". " else fact[0].lower() + fact[1:])
    return f"{text}."


def write_pairs(count: int = COUNT) -> list[dict[str, Any]]:
    """A question, a better answer and a worse one; the worse ones are vague three times in four."""
    draw = random.Random(3)
    asked = [(topic, ask) for ask in ASKS for topic in FACTS]
    draw.shuffle(asked)
    rows = []
    for topic, ask in asked[:count]:
        facts = draw.sample(FACTS[topic], draw.choice((2, 3)))
        other = draw.sample(FACTS[draw.choice(list(FACTS))], draw.choice((1, 2)))
        vague = [draw.choice(WRONG)] if draw.random() < 0.75 else []
        rows.append(
            {
                "prompt": f"{ask.format(topic=topic)}\n",
                "chosen": _sentences(draw, topic, facts),
                "rejected": _sentences(draw, topic, [*draw.sample(facts, 1), *other, *vague]),
            }
        )
    return rows


def write_rows(count: int = COUNT) -> list[dict[str, Any]]:
    """A question and its answer."""
    return [{"prompt": row["prompt"], "completion": row["chosen"]} for row in write_pairs(count)]


def _fit(world: World, rows: list[dict[str, Any]]) -> World:
    world.rows = rows
    world.recipe["training"] |= {"num_train_epochs": 1, "per_device_train_batch_size": 8}
    if "max_length" in world.recipe["training"]:
        world.recipe["training"]["max_length"] = 1024
    return world


def prose(folder: Path) -> World:
    """Questions and their answers, as plain text."""
    return _fit(sft_full(folder), write_rows())


def prose_chat(folder: Path) -> World:
    """The same as conversations of one turn."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": row["prompt"].strip()},
                {"role": "assistant", "content": row["completion"]},
            ]
        }
        for row in write_rows()
    ]
    return _fit(sft_chat(folder), rows)


def prose_dpo(folder: Path) -> World:
    """Questions with two answers each."""
    return _fit(dpo_full(folder), write_pairs())


def prose_reward(folder: Path) -> World:
    """Questions with two answers each, for a reward model."""
    return _fit(reward_full(folder), write_pairs())


def prose_ppo(folder: Path) -> World:
    """Questions to answer."""
    return _fit(ppo_full(folder), [{"prompt": row["prompt"]} for row in write_rows()])
