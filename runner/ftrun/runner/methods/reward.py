"""`method: reward`, from pairs of answers to a model that scores them, through TRL's RewardTrainer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ftrun.checks.examples import margins_of
from ftrun.checks.rows import IGNORED, Row, Rows
from ftrun.checks.stages import AtData, AtEnvironment, AtModel, widen
from ftrun.runner.arguments import count_steps, make_arguments
from ftrun.runner.batch import count_processes
from ftrun.runner.data.encoding import encode_split
from ftrun.runner.data.preparation import load_splits
from ftrun.runner.data.splits import count_splits
from ftrun.runner.data.tables import make_pairs
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
from ftrun.runner.scores import score_rows
from ftrun.schemas.methods.reward import Recipe

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback


def build_data(at: AtEnvironment) -> AtData:
    """Tokenizer and pairs: all that training will read. Pairs with a side over `max_length` are left out, as
    TRL leaves them out.

    Raises DataError or ModelError with the reason where they cannot be made.
    """
    recipe, folder = cast(Recipe, at.recipe), at.file.folder
    location = locate_model(recipe, folder)
    config = load_config(recipe.model, location)
    tokenizer = load_tokenizer(recipe.model, location, folder, recipe.training["eos_token"])
    settle_pad_token(tokenizer, config)

    sources, train_split, eval_split = load_splits(recipe, folder, tokenizer)
    train_rows, eval_rows = (
        None
        if split is None
        else encode_split(
            split.origins,
            split.sources,
            tokenizer,
            max_length=recipe.training["max_length"],
            truncation_mode=None,
        )
        for split in (train_split, eval_split)
    )
    assert train_rows is not None
    train_dataset = _feed(train_rows)
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
        eval_dataset=None if eval_rows is None else _feed(eval_rows),
        steps=count_steps(recipe.training, len(train_dataset), count_processes(recipe)),
    )


def settle_pad_token(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> None:
    """Give a tokenizer that pads with its end-of-sequence token another special token of its own to pad with.

    A classifier of transformers reads its score at the last token that is not the padding token
    (`GenericForSequenceClassification`): were that the end-of-sequence token, a row that ends and one that was
    broken off would score alike. A token named for padding is taken, else the unknown token, else a reserved
    one. The token stays where there is none of these, and where a reward model was trained with it.
    """
    if tokenizer.pad_token_id != tokenizer.eos_token_id:
        return
    if is_classifier(config) and config.get_text_config().pad_token_id == tokenizer.pad_token_id:
        return
    size = config.get_text_config().vocab_size
    special = {
        one.content
        for id, one in tokenizer.added_tokens_decoder.items()
        if one.special and id < size and id not in (tokenizer.eos_token_id, tokenizer.bos_token_id)
    }
    named = sorted(one for one in special if "pad" in one.lower() and "image" not in one.lower())
    unknown = [tokenizer.unk_token] if tokenizer.unk_token in special else []
    reserved = sorted(one for one in special if "reserved" in one.lower())
    for token in (*named, *unknown, *reserved):
        tokenizer.pad_token = token
        return


def _feed(rows: Rows) -> Dataset:
    """The pairs as the trainer reads them, with their margins where every pair has one."""
    margins = margins_of(rows)
    return (
        make_pairs(rows) if np.isnan(margins).any() or not len(margins) else make_pairs(rows, margin=margins)
    )


def build_model(at: AtData, folder: Path, callbacks: Sequence[TrainerCallback] = ()) -> AtModel:
    """The model with a head of one score in the trainer that will train it, with its optimizer. `folder`
    receives checkpoints.

    The head is drawn where the model has none, and is trained under LoRA too. Raises ModelError where the
    weights do not load, or PEFT or TRL refuse them.
    """
    from transformers import set_seed
    from trl import RewardConfig, RewardTrainer

    recipe = cast(Recipe, at.recipe)
    arguments = make_arguments(RewardConfig, at, folder)
    # What is longer has been left out already; TRL would read every pair again to look for it.
    arguments.max_length = None
    # The head is drawn while loading, alike in every process.
    set_seed(arguments.seed)
    model, load_report = load_model(recipe, at.model_folder, at.machine, head="score")
    lora = recipe.model.lora
    trainer = RewardTrainer(
        model=model,
        args=arguments,
        train_dataset=at.train_dataset,
        eval_dataset=at.eval_dataset,
        processing_class=at.tokenizer,
        peft_config=None if lora is None else make_peft_config(lora, "SEQ_CLS"),
        callbacks=[make_side_means(), *callbacks],
    )
    if arguments.bf16:
        _widen_head(trainer.model)
    return make_ready(at, trainer, load_report)


def _widen_head(model: PreTrainedModel) -> None:
    """Train the copy of the head that PEFT made of a bfloat16 base in float32, as PEFT does with adapters.

    bfloat16 keeps 8 bits of a weight and rounds small updates away. Autocast lets the two types meet.
    """
    import torch

    for name, p in model.named_parameters():
        if ".modules_to_save." in name and p.requires_grad and p.dtype == torch.bfloat16:
            p.data = p.data.float()


def make_side_means() -> TrainerCallback:
    """A trainer callback that adds the mean score of each side to what TRL logs.

    Of every batch both sides have as many scores, so their means lie half the mean margin above and below the
    mean of all. Callbacks that come after this one see them.
    """
    from transformers import TrainerCallback

    class AddSideMeans(TrainerCallback):  # type: ignore[misc, unused-ignore]  # transformers is untyped here
        def on_log(self, *args: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
            for prefix in ("", "eval_"):
                if logs is not None and f"{prefix}mean_reward" in logs:
                    mean, half = logs[f"{prefix}mean_reward"], logs[f"{prefix}margin"] / 2
                    logs[f"{prefix}mean_chosen_reward"] = mean + half
                    logs[f"{prefix}mean_rejected_reward"] = mean - half

    return AddSideMeans()


def ask(at: AtModel) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """How the trained model scores the held-out pairs, and a table of them; empty where none are held out.

    `accuracy` is the share of pairs whose chosen side scores higher, `margin` the mean difference.
    """
    if at.eval is None or not len(at.eval):
        return {}, []
    batch = 2 * at.recipe.training["per_device_eval_batch_size"]
    with at.trainer.accelerator.autocast():
        scores = score_rows(at.eval, at.model, at.tokenizer.pad_token_id, batch_size=batch)
    chosen, rejected = scores[::2], scores[1::2]
    metrics = {
        "eval/accuracy": float((chosen > rejected).mean()),
        "eval/margin": float((chosen - rejected).mean()),
        "eval/mean_chosen_reward": float(chosen.mean()),
        "eval/mean_rejected_reward": float(rejected.mean()),
    }
    return metrics, [_describe_pair(at, i, scores) for i in range(len(chosen))]


def _describe_pair(at: AtModel, pair: int, scores: np.ndarray[Any, Any]) -> dict[str, Any]:
    assert at.eval is not None
    prompt, chosen = _texts(at, at.eval[2 * pair])
    rejected = _texts(at, at.eval[2 * pair + 1])[1]
    return {
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
        "chosen_score": float(scores[2 * pair]),
        "rejected_score": float(scores[2 * pair + 1]),
    }


def _texts(at: AtModel, row: Row) -> tuple[str, str]:
    """The prompt of a row and its answer, as their tokens decode."""
    answer = row.labels != IGNORED
    prompt, said = (
        at.tokenizer.decode(row.ids[part], skip_special_tokens=True) for part in (~answer, answer)
    )
    return prompt, said
