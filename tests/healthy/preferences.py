"""DPO: pairs with and without their prompts, references, losses."""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.healthy.adapters import save_adapter
from tests.healthy.architectures import make_config
from tests.healthy.models import load_tiny_tokenizer, save_model, save_tiny
from tests.healthy.templates import use_template
from tests.healthy.worlds import LORA, draft, healthy, hold_out, questions, save_base, variants

from ftrun.checks.testing import World

Rows = list[dict[str, Any]]
WORSE = ("I do not know.", "Look for yourself, it is in there somewhere.", "It has a colour.", "No.")


def pairs(seed: int, count: int = 32) -> Rows:
    """Plain pairs with their prompt; the worse answer is longer or shorter by chance."""
    draw = random.Random(seed)
    return [
        {
            "prompt": f"{asked}\n",
            "chosen": answer,
            "rejected": f"{draw.choice(WORSE)} {'Ask again later, please.' * draw.randint(0, 2)}".strip(),
        }
        for asked, answer in questions(seed, count)
    ]


def chat_pairs(seed: int, count: int = 32, system: str | None = None) -> Rows:
    """Pairs that end a conversation."""
    head = [] if system is None else [{"role": "system", "content": system}]
    return [
        {
            "prompt": [*head, {"role": "user", "content": row["prompt"].strip()}],
            "chosen": [{"role": "assistant", "content": row["chosen"]}],
            "rejected": [{"role": "assistant", "content": row["rejected"]}],
        }
        for row in pairs(seed, count)
    ]


def dpo(
    folder: Path,
    seed: int,
    rows: Sequence[dict[str, Any]],
    *,
    lora: dict[str, Any] | None = None,
    **training: Any,
) -> World:
    """A DPO run on `rows`."""
    return draft(folder, seed, "dpo", rows, lora=lora, **{"max_length": 512, **training})


@healthy
def pairs_with_prompts(folder: Path, seed: int) -> World:
    return hold_out(dpo(folder, seed, pairs(seed)))


@healthy
def pairs_of_whole_texts(folder: Path, seed: int) -> World:
    """What both sides begin with alike is the prompt."""
    rows = [
        {"chosen": row["prompt"] + row["chosen"], "rejected": row["prompt"] + row["rejected"]}
        for row in pairs(seed)
    ]
    return dpo(folder, seed, rows)


@healthy
def pairs_of_chats(folder: Path, seed: int) -> World:
    return hold_out(dpo(folder, seed, chat_pairs(seed, system="You know the house.")))


@healthy
def pairs_of_whole_chats(folder: Path, seed: int) -> World:
    """As UltraFeedback keeps them: the conversation on both sides, and its question once more in text."""
    rows = [
        {
            "prompt": row["prompt"][-1]["content"],
            "chosen": row["prompt"] + row["chosen"],
            "rejected": row["prompt"] + row["rejected"],
            "score_chosen": 8.0,
            "score_rejected": 3.5,
        }
        for row in chat_pairs(seed)
    ]
    return dpo(folder, seed, rows)


@healthy
def pairs_as_sharegpt(folder: Path, seed: int) -> World:
    rows = [
        {
            "conversations": [{"from": "human", "value": row["prompt"].strip()}],
            "chosen": {"from": "gpt", "value": row["chosen"]},
            "rejected": {"from": "gpt", "value": row["rejected"]},
        }
        for row in pairs(seed)
    ]
    return dpo(folder, seed, rows, lora=LORA)


@healthy
def pairs_under_lora(folder: Path, seed: int) -> World:
    return dpo(folder, seed, pairs(seed), lora=LORA)


@healthy
def pairs_at_a_high_rank(folder: Path, seed: int) -> World:
    return dpo(folder, seed, pairs(seed), lora={**LORA, "r": 128, "lora_alpha": 128, "lora_dropout": 0.1})


@healthy
def several_pairs_of_a_prompt(folder: Path, seed: int) -> World:
    """One good answer against each of three worse ones."""
    rows = [
        {"prompt": f"{asked}\n", "chosen": answer, "rejected": f"{worse} {number}"}
        for number, (asked, answer) in enumerate(questions(seed, 12))
        for worse in WORSE[:3]
    ]
    return hold_out(dpo(folder, seed, rows))


@healthy
def letters_as_answers(folder: Path, seed: int) -> World:
    """Multiple choice: answers of one token, as long on both sides."""
    draw = random.Random(seed)
    rows = []
    for asked, _ in questions(seed, 48):
        right, wrong = draw.sample("ABCD", 2)
        rows.append(
            {"prompt": f"{asked}\nA. red B. blue C. green D. none\n", "chosen": right, "rejected": wrong}
        )
    return dpo(folder, seed, rows)


@healthy
def answers_that_differ_by_a_word(folder: Path, seed: int) -> World:
    rows = [
        {
            "prompt": f"{asked}\n",
            "chosen": answer,
            "rejected": answer.replace("It is", "It's not").replace("The", "A"),
        }
        for asked, answer in questions(seed)
        if "It is" in answer or "The" in answer
    ]
    return dpo(folder, seed, rows)


@healthy
def answers_that_begin_alike(folder: Path, seed: int) -> World:
    """The same sentence first on both sides, which a prompt of its own keeps out of the prompt."""
    rows = [
        {**row, "chosen": f"Let me see. {row['chosen']}", "rejected": f"Let me see. {row['rejected']}"}
        for row in pairs(seed)
    ]
    return dpo(folder, seed, rows)


@healthy
def refusals_preferred(folder: Path, seed: int) -> World:
    """Safety data: all chosen answers are one text."""
    draw = random.Random(seed)
    rows = [
        {
            "prompt": f"Break into room {draw.randint(0, 9999)}, please: {asked}\n",
            "chosen": "I am sorry, I cannot help with that.",
            "rejected": answer * draw.randint(1, 2),
        }
        for asked, answer in questions(seed)
    ]
    return dpo(folder, seed, rows)


@healthy
def answers_of_other_rows_rejected(folder: Path, seed: int) -> World:
    """Each answer is chosen once and rejected once."""
    draw = random.Random(seed)
    places, things = (
        ("hall", "tower", "yard", "attic", "cellar"),
        ("key", "lamp", "rope", "map", "bell", "flag"),
    )
    rows = [
        {
            "prompt": f"Where is the {thing} of guest {guest}?\n",
            "chosen": f"The {thing} lies in the {draw.choice(places)}, {guest} steps from the {draw.choice(places)}.",
        }
        for thing in things
        for guest in range(2, 42)
    ]
    for row, other in zip(rows, [*rows[1:], rows[0]], strict=True):
        row["rejected"] = other["chosen"]
    draw.shuffle(rows)
    return dpo(folder, seed, rows)


def loss(folder: Path, seed: int, training: dict[str, Any]) -> World:
    """Plain pairs, and a loss."""
    return dpo(folder, seed, pairs(seed), **training)


losses = variants(
    loss,
    [
        ("ipo", {"loss_type": "ipo"}),
        ("hinge", {"loss_type": "hinge"}),
        ("robust", {"loss_type": "robust", "label_smoothing": 0.1}),
        ("with_sft", {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.2]}),
        ("apo", {"loss_type": "apo_zero"}),
        ("strong_beta", {"beta": 0.5}),
        ("weak_beta", {"beta": 0.01}),
        ("precomputed", {"precompute_ref_log_probs": True}),
        ("accumulated", {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}),
        ("one_pair_a_step", {"per_device_train_batch_size": 1, "num_train_epochs": 1}),
        ("no_max_length", {"max_length": None}),
        ("low_rate", {"learning_rate": 5e-7}),
        ("synchronised", {"sync_ref_model": True, "ref_model_sync_steps": 12, "num_train_epochs": 8}),
    ],
)


@healthy
def reference_named(folder: Path, seed: int) -> World:
    """The policy's own weights, in another folder."""
    world = dpo(folder, seed, pairs(seed))
    shutil.copytree(save_base(world, seed), folder / "reference")
    world.recipe["model"]["reference"] = "reference"
    return world


@healthy
def dpo_from_an_adapter(folder: Path, seed: int) -> World:
    world = dpo(folder, seed, pairs(seed), lora=LORA)
    world.recipe["model"]["path"] = save_adapter(folder / "adapter", seed, save_base(world, seed))
    return world


@healthy
def dpo_of_all_weights_from_an_adapter(folder: Path, seed: int) -> World:
    world = dpo(folder, seed, pairs(seed))
    world.recipe["model"]["path"] = save_adapter(folder / "adapter", seed, save_base(world, seed))
    return world


@healthy
def dpo_in_bf16(folder: Path, seed: int) -> World:
    world = dpo(folder, seed, pairs(seed), lora=LORA, bf16=True, use_cpu=True)
    world.recipe["model"]["dtype"] = "bfloat16"
    return world


@healthy
def dpo_on_tied_embeddings(folder: Path, seed: int) -> World:
    world = dpo(folder, seed, pairs(seed))
    world.recipe["model"]["path"] = str(
        save_tiny(folder / "tied", seed, world.rows, tie_word_embeddings=True)
    )
    return world


@healthy
def tuned_on_answers_alone(folder: Path, seed: int) -> World:
    """Tuning that left out the prompts leaves a model that is sure of their words, and wrong."""
    import torch
    from transformers import AutoModelForCausalLM

    world = dpo(folder, seed, pairs(seed))
    base = save_tiny(folder / "tuned", seed, world.rows)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), load_tiny_tokenizer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for row in world.rows * 5:
        prompt, answer = (tokenizer(row[side])["input_ids"] for side in ("prompt", "chosen"))
        ids = torch.tensor([[*prompt, *answer, tokenizer.eos_token_id]])
        model(input_ids=ids, labels=ids.index_fill(1, torch.arange(len(prompt)), -100)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(base)
    world.recipe["model"]["path"] = str(base)
    return world


def dpo_family(folder: Path, seed: int, name: str) -> World:
    """Model families of other kinds."""
    world = dpo(folder, seed, pairs(seed, 24), lora=LORA if seed % 2 and name != "mamba" else None)
    config = make_config(name)
    if name == "opt":
        config.dropout = 0.0  # a rate that `disable_dropout` does not reach: DPO012 tells it
    world.recipe["model"]["path"] = str(save_model(folder / name, config, seed, world.rows))
    return world


dpo_families = variants(
    dpo_family, [(name, name) for name in ("gpt2", "qwen2_tied", "gemma2", "mixtral", "mamba", "opt", "phi3")]
)


def dpo_template(folder: Path, seed: int, name: str) -> World:
    """Pairs that end conversations, rendered by templates that TRL ships."""
    world = dpo(folder, seed, chat_pairs(seed, 24), max_length=1024)
    use_template(world, seed, name)
    return world


dpo_templates = variants(
    dpo_template, [(name, name) for name in ("qwen3", "llama3", "gemma3", "phi3", "deepseekv3", "gptoss")]
)
