"""`method: sft`, from rows to a trained model, through TRL's SFTTrainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ftrun.checks.rows import Rows
from ftrun.checks.stages import AtData, AtEnvironment, AtModel, widen
from ftrun.runner.answers import answer_rows
from ftrun.runner.arguments import count_steps, make_arguments
from ftrun.runner.batch import count_processes
from ftrun.runner.data.encoding import encode_split
from ftrun.runner.data.preparation import load_splits
from ftrun.runner.data.splits import Split, count_splits
from ftrun.runner.data.tables import make_dataset
from ftrun.runner.model import (
    load_config,
    load_model,
    load_tokenizer,
    locate_model,
    make_peft_config,
    make_ready,
    read_stop_ids,
)
from ftrun.schemas.errors import DataError
from ftrun.schemas.methods.sft import Recipe

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase, TrainerCallback


def build_data(at: AtEnvironment) -> AtData:
    """Tokenizer, rows and labels: all that training will read.

    Raises DataError or ModelError with the reason where they cannot be made.
    """
    recipe, folder = cast(Recipe, at.recipe), at.file.folder
    location = locate_model(recipe, folder)
    config = load_config(recipe.model, location)
    tokenizer = load_tokenizer(recipe.model, location, folder, recipe.training["eos_token"])

    sources, train_split, eval_split = load_splits(recipe, folder, tokenizer, recipe.data.loss_on)
    packing = recipe.training["packing"]
    eval_packing = packing if recipe.training["eval_packing"] is None else recipe.training["eval_packing"]
    train_rows = _encode(train_split, recipe, tokenizer, packing)
    eval_rows = None if eval_split is None else _encode(eval_split, recipe, tokenizer, eval_packing)
    train_dataset = _feed(train_rows, recipe, packing)
    return widen(
        at,
        AtData,
        model_folder=location,
        model_config=config,
        tokenizer=tokenizer,
        stop_ids=read_stop_ids(recipe.model, location, config, tokenizer),
        train=train_rows,
        eval=eval_rows,
        sources=sources,
        counts=count_splits((train_rows, train_split), (eval_rows, eval_split)),
        train_dataset=train_dataset,
        eval_dataset=None if eval_rows is None else _feed(eval_rows, recipe, eval_packing),
        steps=count_steps(recipe.training, len(train_dataset), count_processes(recipe)),
    )


def _encode(split: Split, recipe: Recipe, tokenizer: PreTrainedTokenizerBase, packing: bool) -> Rows:
    """The rows of a split, cut at `max_length` unless the packing divides what is longer, as TRL's does."""
    training = recipe.training
    divides = packing and training["packing_strategy"] in ("bfd_split", "wrapped")
    return encode_split(
        split.origins,
        split.sources,
        tokenizer,
        max_length=None if divides else training["max_length"],
        truncation_mode=training["truncation_mode"],
    )


def _feed(rows: Rows, recipe: Recipe, packing: bool) -> Dataset:
    """The data set that the trainer reads: shuffled and packed where the recipe says so, as TRL does both."""
    from trl import pack_dataset

    training = recipe.training
    dataset = make_dataset(rows)
    if packing and len(dataset):
        if training["max_length"] is None:
            raise DataError("training.packing needs training.max_length, the length to pack to")
        if training["shuffle_dataset"]:
            dataset = dataset.shuffle(seed=training["seed"])
        dataset = pack_dataset(dataset, training["max_length"], training["packing_strategy"])
    return dataset.shuffle(seed=training["seed"]) if training["shuffle_dataset"] else dataset


def build_model(at: AtData, folder: Path, callbacks: Sequence[TrainerCallback] = ()) -> AtModel:
    """The model in the trainer that will train it, with its optimizer. `folder` receives checkpoints.

    Raises ModelError where the weights do not load, or PEFT or TRL refuse them.
    """
    from transformers import set_seed
    from trl import SFTConfig, SFTTrainer

    recipe = cast(Recipe, at.recipe)
    arguments = make_arguments(SFTConfig, at, folder)
    # Whatever is drawn while loading (a head that the checkpoint lacks) is drawn alike in every process.
    set_seed(arguments.seed)
    model, load_report = load_model(recipe, at.model_folder, at.machine)
    lora = recipe.model.lora
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=at.train_dataset,
        eval_dataset=at.eval_dataset,
        processing_class=at.tokenizer,
        peft_config=None if lora is None else make_peft_config(lora),
        callbacks=list(callbacks),
    )
    return make_ready(at, trainer, load_report)


def ask(at: AtModel) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """The metrics of `evaluation:` and a table of the answers; empty where the recipe asks for none."""
    recipe = cast(Recipe, at.recipe)
    wanted = recipe.evaluation.exact_match
    if wanted is None or at.eval is None:
        return {}, []
    answers = answer_rows(
        at.eval,
        wanted,
        at.model,
        at.tokenizer,
        at.stop_ids,
        max_new_tokens=recipe.evaluation.max_new_tokens,
    )
    table = [{**asdict(answer), "exact": answer.exact} for answer in answers]
    return {"eval/exact_match": sum(answer.exact for answer in answers) / max(1, len(answers))}, table
