"""`method: dpo`, from pairs of answers to a trained model, through TRL's DPOTrainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ftrun.checks.rows import Rows
from ftrun.checks.stages import AtData, AtEnvironment, AtModel, widen
from ftrun.runner.arguments import count_steps, make_arguments
from ftrun.runner.batch import count_processes
from ftrun.runner.data.encoding import encode_split
from ftrun.runner.data.preparation import load_splits
from ftrun.runner.data.splits import Split, count_splits
from ftrun.runner.data.tables import make_divided_pairs
from ftrun.runner.dpo.held_out import Choice, answer_pairs, measure_margins
from ftrun.runner.model import (
    load_config,
    load_model,
    load_tokenizer,
    locate_model,
    make_peft_config,
    make_ready,
    read_stop_ids,
)
from ftrun.schemas.methods.dpo import Recipe

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback


def build_data(at: AtEnvironment) -> AtData:
    """Tokenizer, pairs and masks: all that training will read.

    Raises DataError or ModelError with the reason where they cannot be made.
    """
    recipe, folder = cast(Recipe, at.recipe), at.file.folder
    location = locate_model(recipe, folder)
    config = load_config(recipe.model, location)
    tokenizer = load_tokenizer(recipe.model, location, folder, None)
    sources, train_split, eval_split = load_splits(recipe, folder, tokenizer)
    train_rows, train_dataset = _encode(train_split, recipe, tokenizer)
    eval_rows, eval_dataset = (None, None) if eval_split is None else _encode(eval_split, recipe, tokenizer)
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
        eval_dataset=eval_dataset,
        steps=count_steps(recipe.training, len(train_dataset), count_processes(recipe)),
    )


def _encode(split: Split, recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> tuple[Rows, Dataset]:
    """The rows of a split as they train, and the data set that the trainer's collator makes them of.

    Cut at its end, a pair keeps one prompt for both sides. Cut at its start (`keep_end`), each side loses another
    part of the prompt, which the data set's one column for it cannot tell: there the collator cuts whole rows.
    """

    def encode(max_length: int | None) -> Rows:
        mode = recipe.training["truncation_mode"]
        return encode_split(
            split.origins, split.sources, tokenizer, max_length=max_length, truncation_mode=mode
        )

    rows = encode(recipe.training["max_length"])
    cut = rows.full_lengths > rows.lengths
    by_collator = recipe.training["truncation_mode"] == "keep_end" and cut.any()
    return rows, make_divided_pairs(encode(None) if by_collator else rows)


def build_model(at: AtData, folder: Path, callbacks: Sequence[TrainerCallback] = ()) -> AtModel:
    """The policy in the trainer that will train it, with its reference and its optimizer. `folder` receives
    checkpoints.

    Raises ModelError where weights do not load, or PEFT or TRL refuse them.
    """
    from transformers import set_seed
    from trl import DPOConfig

    from ftrun.runner.dpo.trainer import PairTrainer

    recipe = cast(Recipe, at.recipe)
    arguments = make_arguments(DPOConfig, at, folder)
    # Set afterwards: the config warns of `keep_end`, which TRL 2 is to drop.
    arguments.truncation_mode = recipe.training["truncation_mode"]
    # Whatever is drawn while loading (a head that the checkpoint lacks) is drawn alike in every process.
    set_seed(arguments.seed)
    model, load_report = load_model(recipe, at.model_folder, at.machine)
    lora = recipe.model.lora
    trainer = PairTrainer(
        model=model,
        ref_model=_load_reference(at, arguments.seed),
        args=arguments,
        train_dataset=at.train_dataset,
        eval_dataset=at.eval_dataset,
        processing_class=at.tokenizer,
        peft_config=None if lora is None else make_peft_config(lora),
        callbacks=list(callbacks),
    )
    return make_ready(at, trainer, load_report)


def _load_reference(at: AtData, seed: int) -> PreTrainedModel | None:
    """The frozen model that the policy is held to, loaded as the policy is.

    None where the trainer has it from the policy itself: with LoRA by turning the adapters off, and with
    precomputed log-probabilities before the first step.
    """
    from transformers import set_seed

    recipe = cast(Recipe, at.recipe)
    source = at.model_folder
    if recipe.model.reference is not None:
        source = locate_model(recipe, at.file.folder, "reference")
        # The policy's branch is one of the policy's repository.
        recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"revision": None})})
    elif recipe.model.lora is not None or recipe.training["precompute_ref_log_probs"]:
        return None
    set_seed(seed)  # what a checkpoint lacks is drawn as it was for the policy
    model, _ = load_model(recipe, source, at.machine)
    return model.requires_grad_(False).eval()


def ask(at: AtModel) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """How the held-out pairs fare, and a table of the answers that `evaluation:` asks for; empty without pairs.

    `preference_accuracy` is the share of pairs whose chosen answer has the higher implicit reward, `margin` the
    mean of the difference, `kl` the divergence per answer. `chosen_generated` and `rejected_generated` are the
    shares of prompts that are answered with that very text, `…_before` those of the model before training.
    """
    recipe = cast(Recipe, at.recipe)
    if at.eval is None or not len(at.eval):
        return {}, []
    metrics = {"eval/kl": at.trainer.measure_divergence().per_answer}
    margins = measure_margins(at.trainer)
    if margins is not None:
        metrics = {
            "eval/preference_accuracy": float((margins > 0).mean()),
            "eval/preference_margin": float(margins.mean()),
            **metrics,
        }
    if recipe.evaluation.generate is None:
        return metrics, []
    choices = answer_pairs(at, at.eval, recipe.evaluation.generate, recipe.evaluation.max_new_tokens)
    return metrics | _shares(choices), [asdict(choice) for choice in choices]


def _shares(choices: Sequence[Choice]) -> dict[str, float]:
    shares = {}
    for side in ("chosen", "rejected"):
        wanted = [getattr(choice, side).strip() for choice in choices]
        for time, texts in (
            ("_before", [choice.before for choice in choices]),
            ("", [choice.given for choice in choices]),
        ):
            known = [(text, want) for text, want in zip(texts, wanted, strict=True) if text is not None]
            if known:
                equal = sum(text.strip() == want for text, want in known)
                shares[f"eval/{side}_generated{time}"] = equal / len(known)
    return shares
