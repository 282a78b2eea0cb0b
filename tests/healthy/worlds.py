"""Healthy worlds: recipes that are right, however unusual, on which every check is to stay silent.

A world is made from a folder and a seed. The seed decides the rows, their order, the initial weights of the
model and the recipe's own seed, so that three seeds are three runs and not one run three times.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ftrun.checks.testing import World

MODULES = (
    "answers",
    "settings",
    "adapters",
    "conversations",
    "templates",
    "tools",
    "called_tools",
    "sources",
    "architectures",
    "tokenizers",
    "preferences",
    "rewards",
    "sides",
    "rollouts",
    "unusual",
    "said",
    "data",
)
"""The modules with worlds, by theme."""

LORA = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}

MODEL = "model"
"""The folder of the model in that of a world; it is written when the world is whole."""

Make = Callable[[Path, int], World]


@dataclass(frozen=True)
class Healthy:
    """A maker of healthy worlds, and the name that reports give it."""

    name: str
    make: Make

    def build(self, folder: Path, seed: int) -> World:
        """The world of a seed, in a folder of its own, with the model that its recipe names."""
        world = self.make(folder, seed)
        own = str(folder / MODEL)
        if world.recipe.get("model", {}).get("path", own) == own:
            save_base(world, seed)
        return world


def save_base(world: World, seed: int) -> str:
    """Write the model of a world that brings none of its own, once, and return its folder."""
    from tests.healthy.models import save_tiny

    folder = world.folder / MODEL
    return str(folder if folder.exists() else save_tiny(folder, seed, world.rows))


def healthy(make: Make) -> Healthy:
    """Name a maker after its function. Nothing is registered: `find_worlds` looks into the modules."""
    return Healthy(make.__name__, make)


def variants(make: Callable[..., World], cases: Iterable[tuple[str, Any]]) -> tuple[Healthy, ...]:
    """One world for each case: its name after the maker's, and its value as the maker's third argument."""

    def bind(value: Any) -> Make:
        return lambda folder, seed: make(folder, seed, value)

    return tuple(Healthy(f"{make.__name__}_{name}", bind(value)) for name, value in cases)


def find_worlds() -> tuple[Healthy, ...]:
    """Every world of every module, in the order in which they are written; names are unique."""
    # A dictionary: a module may import a world of another.
    found = {
        one: None
        for name in MODULES
        for value in vars(import_module(f"tests.healthy.{name}")).values()
        for one in (value if isinstance(value, tuple) else (value,))
        if isinstance(one, Healthy)
    }
    twice = [name for name, count in Counter(one.name for one in found).items() if count > 1]
    assert not twice, f"two worlds are called {', '.join(twice)}"
    return tuple(found)


def sft(
    folder: Path,
    seed: int,
    rows: Sequence[dict[str, Any]],
    *,
    lora: dict[str, Any] | None = None,
    **training: Any,
) -> World:
    """A supervised run on `rows`, shuffled by the seed, from a small model drawn by the seed."""
    return draft(folder, seed, "sft", rows, lora=lora, **{"max_length": 512, **training})


def draft(
    folder: Path,
    seed: int,
    method: str,
    rows: Sequence[dict[str, Any]],
    *,
    lora: dict[str, Any] | None = None,
    **training: Any,
) -> World:
    """A run of any method. `training` lies over settings that suit every one of them."""
    shuffled = list(rows)
    random.Random(seed).shuffle(shuffled)
    model: dict[str, Any] = {"path": str(folder / MODEL)}
    if lora is not None:
        model["lora"] = dict(lora)
    recipe: dict[str, Any] = {
        "name": f"healthy-{seed}",
        "method": method,
        "model": model,
        "data": {"train": [{"path": "train.jsonl"}]},
        "training": {
            "learning_rate": 5e-5 if lora is None else 2e-4,
            "num_train_epochs": 2,
            "per_device_train_batch_size": 4,
            "warmup_steps": 0.1,
            "gradient_checkpointing": False,
            "save_strategy": "epoch",
            "seed": seed,
            **training,
        },
        "output": str(folder / "runs"),
    }
    return World(folder=folder, recipe=recipe, rows=shuffled)


def hold_out(world: World, fraction: float = 0.25) -> World:
    """The world with a share of its rows held out and evaluated at each epoch."""
    world.recipe["data"]["eval"] = {"fraction": fraction}
    world.recipe["training"]["eval_strategy"] = "epoch"
    return world


def questions(seed: int, count: int = 32) -> Iterator[tuple[str, str]]:
    """Different questions about a house, each with its answer."""
    draw = random.Random(seed)
    things = ("lamp", "chair", "table", "mirror", "carpet", "clock", "shelf", "curtain", "sofa", "door")
    colours = ("red", "green", "blue", "white", "black", "brown", "yellow")
    kinds = (
        ("What colour is the {thing} in room {room}?", "The {thing} in room {room} is {colour}."),
        ("I am in room {room}. Which colour has the {thing}?", "It is {colour}."),
        ("Where is the {thing} number {room}?", "You find it beside the window of the {colour} room."),
        ("Describe the {thing} of room {room}.", "It is {colour}, rather old, and stands near the wall."),
    )
    for room in draw.sample(range(10, 1000), count):
        asked, answer = draw.choice(kinds)
        words = {"thing": draw.choice(things), "colour": draw.choice(colours), "room": room}
        yield asked.format(**words), answer.format(**words)


def pairs_of_text(seed: int, count: int = 32) -> list[dict[str, Any]]:
    """Rows of a prompt and its completion, as plain text."""
    return [{"prompt": f"{asked}\n", "completion": answer} for asked, answer in questions(seed, count)]


def chats(seed: int, count: int = 32, system: str | None = None, turns: int = 1) -> list[dict[str, Any]]:
    """Rows of messages: a system message where one is given, and `turns` questions, each with its answer."""
    said = list(questions(seed, count + turns - 1))
    head = [] if system is None else [{"role": "system", "content": system}]
    return [
        {
            "messages": [
                *head,
                *(
                    message
                    for asked, answer in said[i : i + turns]
                    for message in (
                        {"role": "user", "content": asked},
                        {"role": "assistant", "content": answer},
                    )
                ),
            ]
        }
        for i in range(count)
    ]
