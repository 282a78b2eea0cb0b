"""Faults of ours, third round: rewards, references, and stages that start from the wrong model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from tests.faults.materials import copy_model, make_scorer
from tests.faults.outcomes import PIPELINE
from tests.faults.own_ppo import write_reward
from tests.faults.plants import Fault
from tests.faults.third_model import damage_model
from tests.faults.third_model_files import shuffle_words

from ftrun.checks.testing import World, dpo_full, ppo_chat, ppo_full, reward_full, sft_full

OURS, NO_PPO, NO_PIPELINES = "ours", "TRL 1.16 has no PPO", "TRL has no pipelines"


def _pay(world: World, *models: Path) -> None:
    world.recipe["reward"] = {"models": [str(model) for model in models], "penalties": None}


X401 = Fault("X401", "The reward does not depend on the answer.", "ppo", "step", OURS)


@X401.planted(ppo_chat, told="PPO017", at="step", trl=NO_PPO)
def the_scorers_template_drops_answers(world: World) -> None:
    _write_scorer(world, "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}")


@X401.planted(ppo_full, told="PPO017", at="step", trl=NO_PPO)
def the_function_reads_prompts(world: World) -> None:
    world.recipe["reward"]["penalties"] = None
    (world.folder / "rewards.py").write_text(
        "def share_of_letters(completions, prompts):\n    return [sum(map(ord, text)) / 100 for text in prompts]\n",
        encoding="utf-8",
    )


X402 = Fault("X402", "The reward model does not read the prompt.", "ppo", "step", OURS)


@X402.planted(ppo_chat, told="PPO017", at="step", trl=NO_PPO)
def the_scorers_template_drops_prompts(world: World) -> None:
    _write_scorer(world, "{% for m in messages if m.role == 'assistant' %}{{ m.content }}{% endfor %}")


def _write_scorer(world: World, template: str) -> None:
    folder = make_scorer(world.folder / "scorer")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    _pay(world, folder)


X403 = Fault("X403", "Scores are given to the answers of other rows.", "ppo", "model", OURS)


@X403.planted(ppo_full, told="PPO016", at="step", trl=NO_PPO)
def scores_slip_by_one(world: World) -> None:
    world.recipe["reward"]["penalties"] = None
    write_reward(
        world,
        "scores = [text.count('e') + len(text) / 9 for text in completions]; return scores[1:] + scores[:1]",
    )


@X403.planted(ppo_full, ppo_chat, told="DATA049", at="model", trl=NO_PPO)
def rows_stand_in_reverse(world: World) -> None:
    damage_model(world, lambda at: setattr(at.trainer, "examples", list(reversed(at.trainer.examples))))


X404 = Fault("X404", "Prompts end before they are answered.", "ppo", "model", OURS)


@X404.planted(ppo_full, told="DATA049", at="model", trl=NO_PPO)
def the_end_stands_behind_each(world: World) -> None:
    def change(at: Any) -> None:
        at.trainer.train_dataset = at.trainer.train_dataset.map(
            lambda row: {"input_ids": [*row["input_ids"], 3]}
        )

    damage_model(world, change)


X405 = Fault("X405", "Scores are so small that all else outweighs them.", "ppo", "step", OURS)


@X405.planted(ppo_full, told="PPO009", at="step", trl=NO_PPO)
def scores_are_in_millionths(world: World) -> None:
    _scale_head(world, 1e-7)


@X405.planted(ppo_full, told="PPO009", at="step", trl=NO_PPO)
def the_head_is_zero(world: World) -> None:
    _scale_head(world, 0.0)


X406 = Fault("X406", "Scores are in the thousands.", "ppo", "step", OURS)


@X406.planted(ppo_full, told="PPO009", at="step", trl=NO_PPO)
def the_head_is_large(world: World) -> None:
    _scale_head(world, 1e5)


def _scale_head(world: World, factor: float) -> None:
    from transformers import AutoModelForSequenceClassification

    folder = make_scorer(world.folder / "scorer")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model.score.weight.data *= factor
    model.save_pretrained(folder)
    _pay(world, folder)


X407 = Fault("X407", "An ensemble is one model.", "ppo", "recipe", OURS)


@X407.planted(ppo_full, told="PPO018", at="recipe", trl=NO_PPO)
def a_reward_model_is_named_twice(world: World) -> None:
    folder = make_scorer(world.folder / "scorer")
    _pay(world, folder, folder)


X408 = Fault("X408", "The reward model reads other words than were written.", "ppo", "model", OURS)


@X408.planted(ppo_full, told=(), trl=NO_PPO, note="A score of strange words is a score like any other.")
def the_scorers_words_are_in_another_order(world: World) -> None:
    folder = make_scorer(world.folder / "scorer")
    shuffle_words(folder)
    _pay(world, folder)


X409 = Fault("X409", "The reward pays for length alone.", "ppo", "step", OURS)


@X409.planted(ppo_full, told=(), trl=NO_PPO, note="A length may be wanted; guards look on while it grows.")
def letters_are_counted(world: World) -> None:
    world.recipe["reward"]["penalties"] = None
    write_reward(world, "return [float(len(text)) for text in completions]")


X410 = Fault("X410", "The reference of DPO numbers words otherwise.", "dpo", "model", OURS)


@X410.planted(dpo_full, told="DPO011", at="model")
def the_references_words_are_in_another_order(world: World) -> None:
    folder = copy_model(world, name="reference")
    shuffle_words(folder)
    world.recipe["model"] |= {"path": "tiny", "reference": str(folder)}


X411 = Fault("X411", "The reference of DPO is not what the policy starts from.", "dpo", "model", OURS)


@X411.planted(dpo_full, told="DPO010", at="model")
def its_weights_are_a_little_larger(world: World) -> None:
    damage_model(world, lambda at: [weight.data.mul_(1.05) for weight in at.trainer.ref_model.parameters()])


X412 = Fault("X412", "The value model cannot learn.", "ppo", "model", OURS)


@X412.planted(ppo_full, told="TRAIN018", at="step", trl=NO_PPO)
def its_values_are_all_zero(world: World) -> None:
    def silence(module: Any, inputs: Any, output: Any) -> Any:
        return 0 * output

    damage_model(world, lambda at: at.trainer.model.value.score.register_forward_hook(silence))


X413 = Fault(
    "X413",
    "DPO or PPO starts from the base, and what an earlier stage made is not used.",
    "all",
    "recipe",
    OURS,
)


@X413.planted(dpo_full, told="REC017", at="recipe", trl=NO_PIPELINES)
def preferences_pass_by_the_tuned_model(world: World) -> None:
    _put_behind(world, sft_full)


@X413.planted(ppo_full, told="REC017", at="recipe", trl=NO_PIPELINES)
def answers_pass_by_the_tuned_model(world: World) -> None:
    _put_behind(world, sft_full)


@X413.planted(ppo_full, told="REC017", at="recipe", trl=NO_PIPELINES)
def answers_pass_by_the_reward_model(world: World) -> None:
    _put_behind(world, reward_full)


def _put_behind(world: World, make: Callable[[Path], World]) -> None:
    """Make the world the second stage of a pipeline that never names its first."""
    first = make(world.folder / "first")
    first.write()
    stages = {"first": {"recipe": "first/recipe.yaml"}, "second": {"recipe": "recipe.yaml"}}
    pipeline = {"name": "two", "output": str(world.folder / "runs"), "stages": stages}
    (world.folder / PIPELINE).write_text(yaml.safe_dump(pipeline, sort_keys=False), encoding="utf-8")
