"""`method: ppo`, from prompts and a reward to a trained model, through our own PPOTrainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ftrun.checks.examples import is_chat
from ftrun.checks.rows import Rows
from ftrun.checks.stages import AtData, AtEnvironment, AtModel, widen
from ftrun.runner.adapters import merge_adapter
from ftrun.runner.arguments import make_arguments
from ftrun.runner.batch import count_processes
from ftrun.runner.data.encoding import encode_split
from ftrun.runner.data.preparation import load_splits
from ftrun.runner.data.splits import Split, count_splits
from ftrun.runner.data.tables import make_prompts
from ftrun.runner.model import (
    is_classifier,
    load_config,
    load_model,
    load_tokenizer,
    locate_model,
    make_peft_config,
    make_ready,
    read_stop_ids,
)
from ftrun.runner.ppo.schedule import count_steps
from ftrun.runner.ranks import share
from ftrun.schemas.errors import ModelError
from ftrun.schemas.methods.ppo import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

    from ftrun.runner.ppo.rewards import RewardModel, RewardSum


def build_data(at: AtEnvironment) -> AtData:
    """Tokenizer and prompts: all that training will read. Prompts over `max_prompt_length` are left out.

    Raises DataError or ModelError with the reason where they cannot be made.
    """
    recipe, folder = cast(Recipe, at.recipe), at.file.folder
    location = locate_model(recipe, folder)
    config = load_config(recipe.model, location)
    tokenizer = load_tokenizer(recipe.model, location, folder, None)

    sources, train_split, eval_split = load_splits(recipe, folder, tokenizer)
    train_rows = _encode(train_split, recipe, tokenizer)
    eval_rows = None if eval_split is None else _encode(eval_split, recipe, tokenizer)
    held_out = None if eval_rows is None else make_prompts(eval_rows)
    asked = recipe.evaluation.prompts
    train_dataset = make_prompts(train_rows)
    return widen(
        at,
        AtData,
        model_folder=location,
        model_config=config,
        tokenizer=tokenizer,
        stop_ids=read_stop_ids(recipe.model, location, config, tokenizer) | _find_stops(recipe, tokenizer),
        train=train_rows,
        eval=eval_rows,
        sources=sources,
        counts=count_splits((train_rows, train_split), (eval_rows, eval_split)),
        train_dataset=train_dataset,
        eval_dataset=None if held_out is None else held_out.select(range(len(held_out))[:asked]),
        steps=count_steps(recipe.training, len(train_dataset), count_processes(recipe)),
    )


def _encode(split: Split, recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Rows:
    return encode_split(
        split.origins,
        split.sources,
        tokenizer,
        max_length=recipe.training["max_prompt_length"],
        truncation_mode=None,
    )


def _find_stops(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    known = tokenizer.get_vocab()
    for token in recipe.training["stop_tokens"] or ():
        if token not in known:
            raise ModelError(
                f"training.stop_tokens {token!r} is no token of {recipe.model.path}'s tokenizer; "
                "a response is ended by one token"
            )
    return frozenset(known[token] for token in recipe.training["stop_tokens"] or ())


def build_model(at: AtData, folder: Path, callbacks: Sequence[TrainerCallback] = ()) -> AtModel:
    """Policy, value model, reference and reward in the trainer that trains the first two, with its optimizer.
    `folder` receives checkpoints. `AtModel.model` is the policy; the trainer's own also holds the value model.

    Raises ModelError where weights or reward functions do not load, or PEFT refuses its settings.
    """
    from transformers import set_seed

    from ftrun.runner.ppo.config import PPOConfig
    from ftrun.runner.ppo.trainer import PPOTrainer

    recipe = cast(Recipe, at.recipe)
    arguments = make_arguments(PPOConfig, at, folder)
    # What is drawn while loading (adapters, the head of the value model) is drawn alike in every process.
    set_seed(arguments.seed)
    policy, load_report = load_model(recipe, at.model_folder, at.machine)
    if recipe.model.lora is not None:
        policy = _add_adapters(policy, recipe, "CAUSAL_LM")
    reward = build_reward(at)
    value = _load_value(at)
    trainer = PPOTrainer(
        policy,
        value,
        reward,
        arguments,
        at.train_dataset,
        at.tokenizer,
        at.stop_ids,
        eval_dataset=at.eval_dataset,
        examples=at.train.examples,
        eval_examples=None if at.eval is None else at.eval.examples[: recipe.evaluation.prompts],
        eval_temperature=recipe.evaluation.temperature,
        callbacks=callbacks,
    )
    return replace(make_ready(at, trainer, load_report), model=policy)


def _add_adapters(model: PreTrainedModel, recipe: Recipe, task: Any) -> Any:
    from peft import get_peft_model, prepare_model_for_kbit_training

    if recipe.model.quantization is not None:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if recipe.training["gradient_checkpointing"]:
        model.enable_input_require_grads()  # without it nothing that is checkpointed needs a gradient
    assert recipe.model.lora is not None
    return get_peft_model(model, make_peft_config(recipe.model.lora, task))


def _load_value(at: AtData) -> Any:
    """The value model, with its adapters. A head that its start does not have is drawn small."""
    from ftrun.runner.ppo.networks import start_value_head

    recipe = cast(Recipe, at.recipe)
    path = recipe.value.path
    if path == "reward":
        if not recipe.reward.models:
            raise ModelError("value.path is reward, and reward.models names none: name one, or use policy")
        path = recipe.reward.models[0]
    if path == "policy":
        own, source = _as_model(recipe, recipe.model.path, recipe.value.lora), at.model_folder
        own = own.model_copy(update={"training": recipe.training})
        own = own.model_copy(
            update={"model": own.model.model_copy(update={"revision": recipe.model.revision})}
        )
    else:
        own = _as_model(recipe, path, recipe.value.lora)
        source = _locate(own, at)
    model, _ = load_model(own, source, at.machine, head="score")
    if not is_classifier(load_config(own.model, source)):
        start_value_head(model)
    return model if own.model.lora is None else _add_adapters(model, own, "SEQ_CLS")


def _as_model(recipe: Recipe, path: str, lora: Mapping[str, Any] | None) -> Recipe:
    """The recipe with another model in the place of the policy, loaded as itself."""
    changes = {"path": path, "lora": lora, "revision": None, "chat_template": None, "quantization": None}
    return recipe.model_copy(
        update={
            "model": recipe.model.model_copy(update=changes),
            "training": {**recipe.training, "model_init_kwargs": None},
        }
    )


def _locate(recipe: Recipe, at: AtData) -> str:
    """What `from_pretrained` is given; for an adapter the model that it merges to, whose config has its head."""
    source, trusted = locate_model(recipe, at.file.folder), recipe.model.trust_remote_code
    return share(lambda: merge_adapter(source, Path(recipe.output), trust_remote_code=trusted))


def build_reward(at: AtData) -> RewardSum:
    """All that scores the answers. Raises ModelError where a part of it does not load."""
    from ftrun.runner.ppo.rewards import RewardSum, load_function

    section = cast(Recipe, at.recipe).reward
    labels = [name.rpartition(":")[2] for name in section.functions]
    if len(set(labels)) < len(labels):
        raise ModelError("reward.functions names two functions alike; the record tells them apart by name")
    return RewardSum(
        models=[_load_scorer(at, path) for path in section.models],
        pessimism=section.pessimism,
        functions={
            label: load_function(name, at.file.folder)
            for label, name in zip(labels, section.functions, strict=True)
        },
        penalties=section.penalties,
    )


def _load_scorer(at: AtData, path: str) -> RewardModel:
    from ftrun.runner.ppo.rewards import RewardModel

    # A frozen model loses nothing in the type that a frozen base under LoRA has.
    recipe = _as_model(cast(Recipe, at.recipe), path, {})
    source = _locate(recipe, at)
    config = load_config(recipe.model, source)
    if is_classifier(config) and config.num_labels != 1:
        raise ModelError(
            f"reward.models {path} has {config.num_labels} labels; what scores an answer is a classifier with one"
        )
    try:
        model, missing = load_model(recipe, source, at.machine, head="score")
    except ModelError as error:
        raise ModelError(f"reward.models: {error}") from error
    if not is_classifier(config) or any("score" in name for name in missing["missing"]):
        raise ModelError(
            f"reward.models {path} has no score head, so its scores would be those of a random one; "
            "name a model that was trained as a reward model"
        )
    tokenizer = load_tokenizer(recipe.model, source, at.file.folder, None)
    if tokenizer.chat_template is None and any(is_chat(row.example) for row in at.train):
        raise ModelError(
            f"reward.models {path} has no chat template, so it cannot read conversations; "
            "write the one that it was trained with into its tokenizer's folder"
        )
    return RewardModel(path, model, tokenizer)


def ask(at: AtModel) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """What answers to held-out prompts are worth, by the model that training began with and by the trained
    one, and a table of both and of those at each evaluation; empty where no prompts are held out.

    `kl` is the divergence of the trained model from its start, summed over an answer, in nats.
    """
    if at.eval is None or not len(at.eval):
        return {}, []
    before, first = at.trainer.examine(start=True)
    after, last = at.trainer.examine()
    metrics = {
        "eval/score_before": before["score"],
        "eval/score_after": after["score"],
        "eval/kl": after["kl"],
    }
    for name in ("response_length", "response_unique_words", "response_ended"):
        metrics |= {f"eval/{name}_before": before[name], f"eval/{name}_after": after[name]}
    table = [*first, *at.trainer.table, *last]
    return metrics, table
