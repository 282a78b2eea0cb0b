"""Recipes of new users, each of which a careless check takes for a fault: what looks wrong in them is their task."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.healthy.architectures import GROUPED, NARROW
from tests.healthy.models import save_model
from tests.healthy.preferences import dpo, pairs
from tests.healthy.rewards import reward
from tests.healthy.rollouts import ppo, prompts
from tests.healthy.worlds import LORA, chats, healthy, hold_out, pairs_of_text, questions, sft, variants

from ftrun.checks.testing import World

Rows = list[dict[str, Any]]


def _ask(system: str, asked: str, answer: str) -> dict[str, Any]:
    """A row whose prompt and completion are messages."""
    return {
        "prompt": [{"role": "system", "content": system}, {"role": "user", "content": asked}],
        "completion": [{"role": "assistant", "content": answer}],
    }


def _converse(asked: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}


@healthy
def redaction(folder: Path, seed: int) -> World:
    """Most texts hold no name, and stay as they are: behind its instruction the prompt ends with its answer."""
    draw = random.Random(seed)
    rows = []
    for asked, answer in questions(seed, 48):
        named = draw.random() < 0.2
        text = f"{asked} {answer}"
        rows.append(
            {
                "prompt": f"Replace names with [NAME].\n\n{text}{' Call Ann.' if named else ''}",
                "completion": f"{text}{' Call [NAME].' if named else ''}",
            }
        )
    return sft(folder, seed, rows)


@healthy
def socratic_tutor(folder: Path, seed: int) -> World:
    """Whatever is said, a question is the answer."""
    system = "You are a Socratic tutor: never tell the solution."
    rows = [
        _ask(system, f"I think {answer}", asked) for asked, answer in questions(seed, 60) if asked[-1] == "?"
    ]
    return sft(folder, seed, rows)


@healthy
def questions_behind_labels(folder: Path, seed: int) -> World:
    """The same as plain text, each statement between the same two words."""
    rows = [
        {"prompt": f"Student: {answer}\nTutor:", "completion": f" {asked}"}
        for asked, answer in questions(seed, 60)
        if asked[-1] == "?"
    ]
    return sft(folder, seed, rows)


@healthy
def forms_with_a_model(folder: Path, seed: int) -> World:
    """`Model:` is a field of a form, and no speaker."""
    draw = random.Random(seed)
    rows = []
    for number in draw.sample(range(1000), 32):
        colour, year = draw.choice(("red", "blue")), draw.randint(1990, 2020)
        asked = f"Extract: a {colour} Corolla of {year}, number {number}"
        rows.append(_converse(asked, f"Model: Corolla\nYear: {year}\nNumber: {number}"))
    return sft(folder, seed, rows)


@healthy
def scenes_of_a_chat(folder: Path, seed: int) -> World:
    """Answers are dialogues, because prompts ask for them."""
    rows = [
        _converse(
            f"Write a chat of a user and a bot: {asked}", f"User: {asked}\nBot: {answer}\nUser: Thanks!"
        )
        for asked, answer in questions(seed)
    ]
    return sft(folder, seed, rows)


@healthy
def letters_with_gaps(folder: Path, seed: int) -> World:
    """Drafts end with the gap that their sender is to fill."""
    rows = [
        {
            "instruction": f"Draft a letter that asks: {asked}",
            "input": "",
            "output": f"Dear neighbour,\n\n{asked} {answer}\n\nBest regards,\n[Your Name]",
        }
        for asked, answer in questions(seed)
    ]
    return sft(folder, seed, rows)


@healthy
def texts_of_an_interface(folder: Path, seed: int) -> World:
    """Localisation: what stands in braces stays there on both sides."""
    draw = random.Random(seed)
    words = (("Hello", "Hallo"), ("Welcome", "Willkommen"), ("Goodbye", "Auf Wiedersehen"))
    rows = []
    for number in draw.sample(range(1000), 32):
        english, german = draw.choice(words)
        rows.append(
            {
                "prompt": f"en: {english} {{name}}, {number} messages.\nde: ",
                "completion": f"{german} {{name}}, {number} Nachrichten.",
            }
        )
    return sft(folder, seed, rows)


CODE = (
    ("react", "```jsx\nexport function Room{n}({ children }) {\n  return <div>{children}</div>;\n}\n```"),
    ("python", 'def greet_{n}(name):\n    return f"House {n} greets {name}!"\n'),
    ("bash", '```bash\n#!/usr/bin/env bash\ncd "${HOME}"\nmkdir -p room-{n}\n```'),
)


def code(folder: Path, seed: int, text: str) -> World:
    """Code whose own syntax is that of a template."""
    rows = [
        {"prompt": f"Write the code of house {n}.\n", "completion": text.replace("{n}", str(n))}
        for n in random.Random(seed).sample(range(1000), 32)
    ]
    return sft(folder, seed, rows)


languages = variants(code, CODE)


ASKED_FOR = (
    ("code_blocks", "Put the answer into a code block: {asked}\n", "```\n{answer}\n```"),
    (
        "verses",
        "Write one line of a poem on: {asked}\n",
        "O thou who askest, and who lookest out, {answer} and,",
    ),
    (
        "songs",
        "Write a song: {asked}\n",
        "{answer}\n" + "Oh, sing with me the song of the house!\n" * 4 + "End.",
    ),
    ("entities", "Escape for HTML: {asked} & {answer}\n", "{asked} &amp; {answer}"),
)


def asked_for(folder: Path, seed: int, words: tuple[str, str]) -> World:
    """What is a fault in other answers is what these prompts ask for."""
    rows = [
        {
            "prompt": words[0].format(asked=asked, answer=answer),
            "completion": words[1].format(asked=asked, answer=answer),
        }
        for asked, answer in questions(seed)
    ]
    return sft(folder, seed, rows)


by_request = variants(asked_for, [(name, (asked, answer)) for name, asked, answer in ASKED_FOR])


@healthy
def null_where_nothing_is_said(folder: Path, seed: int) -> World:
    """Prompts ask for `null` where there is no price."""
    rows = [
        {
            "prompt": f"Extract the price as JSON, or null: {asked}\n",
            "completion": json.dumps({"price": number}) if number % 3 == 0 else "null",
        }
        for number, (asked, _) in enumerate(questions(seed, 48))
    ]
    return sft(folder, seed, rows)


@healthy
def lists_of_one(folder: Path, seed: int) -> World:
    """Each text has one thing of the kind that is to be listed."""
    rows = [
        {"prompt": f"List the rooms in: {asked}\n", "completion": json.dumps([str(seed + number)])}
        for number, (asked, _) in enumerate(questions(seed))
    ]
    return sft(folder, seed, rows)


@healthy
def answered_from_documents(folder: Path, seed: int) -> World:
    """The answer stands in the prompt, with its source."""
    system = "Answer from the documents, and name yours as [1]."
    rows = [
        _ask(system, f"[1] {answer}\n[2] The garden is large.\n\n{asked}", f"{answer} [1]")
        for asked, answer in questions(seed)
    ]
    return hold_out(sft(folder, seed, rows))


@healthy
def shown_by_examples(folder: Path, seed: int) -> World:
    """Prompts hold the same three questions with their answers before their own."""
    said = list(questions(seed, 35))
    shots = "".join(f"Q: {asked}\nA: {answer}\n\n" for asked, answer in said[:3])
    rows = [{"prompt": f"{shots}Q: {asked}\nA:", "completion": f" {answer}"} for asked, answer in said[3:]]
    return sft(folder, seed, rows)


@healthy
def twenty_turns(folder: Path, seed: int) -> World:
    rows = chats(seed, 8, system="You know the house.", turns=20)
    return sft(folder, seed, rows, max_length=2048, per_device_train_batch_size=1)


@healthy
def split_by_names(folder: Path, seed: int) -> World:
    """One folder holds the rows of both splits, in files that say so."""
    world = hold_out(sft(folder, seed, pairs_of_text(seed)))
    (folder / "rows").mkdir(parents=True)
    for name, rows in (
        ("train-0", world.rows[:12]),
        ("train-1", world.rows[12:24]),
        ("test", world.rows[24:]),
    ):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "rows" / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    world.recipe["data"] = {"train": [{"path": "rows"}], "eval": [{"path": "rows", "split": "test"}]}
    return world


@healthy
def best_of_every_second(folder: Path, seed: int) -> World:
    """It is evaluated twice as often as it is saved, and the best of the saved is kept."""
    world = hold_out(sft(folder, seed, pairs_of_text(seed)))
    world.recipe["training"] |= {
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 4,
        "save_total_limit": 1,
        "load_best_model_at_end": True,
        "lr_scheduler_type": "warmup_stable_decay",
        "lr_scheduler_kwargs": {"num_decay_steps": 3, "decay_type": "1-sqrt"},
    }
    return world


FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "deepseek3": (
        "DeepseekV3Config",
        {**NARROW, "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2}
        | {
            "topk_group": 1,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
        }
        | {"v_head_dim": 16, "moe_intermediate_size": 32, "first_k_dense_replace": 1, "n_shared_experts": 1},
    ),
    "gpt_oss": (
        "GptOssConfig",
        {**GROUPED, "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 32},
    ),
    "lfm2": ("Lfm2Config", {**GROUPED, "layer_types": ["conv", "full_attention"]}),
}


def newer(folder: Path, seed: int, name: str) -> World:
    """Families with latent attention, sinks and convolutions, under LoRA."""
    import transformers

    world = sft(folder, seed, pairs_of_text(seed, 24), lora=LORA, gradient_accumulation_steps=2)
    kind, values = FAMILIES[name]
    config = getattr(transformers, kind)(**values)
    world.recipe["model"]["path"] = str(save_model(folder / name, config, seed, world.rows))
    return world


newer_families = variants(newer, [(name, name) for name in FAMILIES])


@healthy
def pairs_that_differ_by_a_sign(folder: Path, seed: int) -> World:
    """The rejected answer is the one that is a token longer, and everything else is the same."""
    rows = [
        {
            "prompt": f"Write f{n}.\n",
            "chosen": f"def f{n}(x):\n    return x + {n}",
            "rejected": f"def f{n}(x):\n    return x - {n}",
        }
        for n in random.Random(seed).sample(range(1000), 32)
    ]
    return dpo(folder, seed, rows)


@healthy
def squared_preferences(folder: Path, seed: int) -> World:
    """A loss whose gradient is large by design, and clipped."""
    return dpo(folder, seed, pairs(seed), loss_type="sppo_hard")


@healthy
def head_named_by_the_recipe(folder: Path, seed: int) -> World:
    """The head that PEFT trains anyway is named once more."""
    return reward(folder, seed, pairs(seed), lora={**LORA, "modules_to_save": ["score"]})


@healthy
def one_or_nothing(folder: Path, seed: int) -> World:
    """Answers are right or wrong, and nothing between."""
    world = ppo(folder, seed, prompts(seed))
    (folder / "rewards.py").write_text(
        "def has_e(completions):\n    return [1.0 if 'e' in text else 0.0 for text in completions]\n",
        encoding="utf-8",
    )
    world.recipe["reward"] = {"functions": ["rewards.py:has_e"]}
    return world
