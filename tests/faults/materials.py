"""What plantings are made of: model folders, chat templates and adapters that differ in one thing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ftrun.checks.testing import World
from ftrun.runner.tiny import TOKENIZER_FILES, locate

Change = Callable[[Any], object]
Trained = TypeVar("Trained")

SYSTEM = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
ANSWER = (
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
)
ASK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"


def copy_model(
    world: World,
    *,
    tokenizer: Change | None = None,
    config: Change | None = None,
    weights: Change | None = None,
    name: str = "model",
) -> Path:
    """A copy of `tiny` beside the recipe, each part changed in place by a function, as the model of the recipe."""
    folder = world.folder / name
    shutil.copytree(locate(), folder)
    if tokenizer is not None:
        from transformers import AutoTokenizer

        changed = AutoTokenizer.from_pretrained(folder)
        tokenizer(changed)
        changed.save_pretrained(folder)
    if config is not None:
        edit_json(folder / "config.json", config)
    if weights is not None:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(folder)
        weights(model)
        model.save_pretrained(folder)
    world.recipe["model"]["path"] = str(folder)
    return folder


def edit_json(path: Path, change: Change) -> None:
    """Change the data of a JSON file in place."""
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def make_model(world: World, model: Any, name: str = "model") -> None:
    """Save a model with the tokenizer of `tiny`, as the model of the recipe."""
    model.save_pretrained(world.folder / name)
    for file in TOKENIZER_FILES:
        shutil.copyfile(locate() / file, world.folder / name / file)
    world.recipe["model"]["path"] = str(world.folder / name)


def make_scorer(folder: Path, **changes: Any) -> Path:
    """A reward model: `tiny` with a head of one score."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(locate(), num_labels=1, **changes)
    model.config.pad_token_id = 0
    model.save_pretrained(folder)
    for file in TOKENIZER_FILES:
        shutil.copyfile(locate() / file, folder / file)
    return folder


def write_template(world: World, text: str) -> None:
    """A chat template beside the recipe."""
    world.folder.mkdir(parents=True, exist_ok=True)
    (world.folder / "wrong.jinja").write_text(text, encoding="utf-8")
    world.recipe["model"]["chat_template"] = "wrong.jinja"


def begin_with_token(tokenizer: Any) -> None:
    """Let a tokenizer put its first token before every text."""
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", 1)]
    )


def remake_optimizer(trainer: Any) -> None:
    """Make the optimizer anew, where it was made before the model was changed."""
    if trainer.optimizer is not None:
        trainer.optimizer = trainer.lr_scheduler = None
        trainer.create_optimizer_and_scheduler(16)


def hold_out(world: World, **training: Any) -> None:
    """Hold rows out for evaluation after each epoch."""
    world.recipe["data"]["eval"] = {"fraction": 0.25}
    world.recipe["training"] |= {"eval_strategy": "epoch", **training}


def change_batch(at: Trained, change: Callable[[Any], Any]) -> Trained:
    """Let a function change every batch that the collator of the trainer in `at` makes."""
    trainer: Any = getattr(at, "trainer")  # noqa: B009
    collate = trainer.data_collator
    trainer.data_collator = lambda rows: change(collate(rows))
    return at
