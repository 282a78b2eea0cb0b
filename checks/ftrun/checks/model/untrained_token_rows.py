"""The rows use tokens that the model was never taught, and cannot learn now.

Symptom: the model never writes the token that ends a turn, or gradients are NaN or huge.
Cause: base models reserve rows of the embedding for special tokens and leave them at zero or alike, and tokens that
are added get the mean of all rows (`resize_token_embeddings`). A chat template uses them, and LoRA keeps the embedding
frozen.
Fix: train these rows, by `model.lora.trainable_token_indices`, or whole by `model.lora.modules_to_save:
[embed_tokens, lm_head]`; or use a chat template with tokens that the model knows.
Prevention: fine-tune the instruct model that the chat template belongs to.
Source: unsloth#658, unsloth#1056, axolotl#1771, torchtune#2429. A row counts as untrained where its norm is under
a tenth of the median, where it equals another special token's row within 1e-6, or where it is ten times nearer to the
mean of all rows than the median row is (tokens that were hardly trained lie there: arXiv 2405.05417). peft#334.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    from ftrun.checks.testing import World

SHORT = 0.1
ALIKE = 1e-6
SAMPLE = 2048
"""Rows that the median norm is taken of, evenly spread."""


@check("MODEL013", title="the model knows the special tokens of the rows", methods=("sft", "reward", "dpo"))
def untrained_token_rows(at: AtModel) -> Iterator[Finding]:
    import numpy as np

    lora = at.recipe.model.lora
    if lora is None:
        raise NotApplicable("embeddings are trained")
    added = set(at.tokenizer.added_tokens_decoder)
    learnt = _learnt_rows(lora)
    tables = {
        "read": (at.model.get_input_embeddings(), "ids"),
        "written": (at.model.get_output_embeddings(), "labels"),
    }
    for how, (module, name) in tables.items():
        if module is None or _is_trained(module):
            continue
        present = (np.unique(getattr(block, name)).tolist() for _, block in at.train.blocks())
        used = sorted((added - learnt).intersection(chain.from_iterable(present)))
        untrained = _untrained(module.weight.detach(), used, sorted(added))
        if untrained:
            names = {token: at.tokenizer.convert_ids_to_tokens(token) for token in untrained}
            yield Finding(
                message=f"{len(untrained)} special tokens of the rows were never trained as tokens that are {how}, "
                f"and LoRA keeps their weights frozen: {', '.join(names.values())}.",
                fix=f"Add {_remedy(at, sorted(untrained))} under model.lora, or use a chat template whose tokens the "
                "model knows.",
                where=at.where("model.lora"),
                evidence=tuple(
                    f"{names[token]} (id {token}): {why}" for token, why in list(untrained.items())[:5]
                ),
            )


def _remedy(at: AtModel, tokens: list[int]) -> str:
    """What trains the rows: those alone where one weight is read and written, for a copy would untie it."""
    tied = at.model.config.get_text_config().tie_word_embeddings
    return f"trainable_token_indices: {tokens[:5]}" if tied else "modules_to_save: [embed_tokens, lm_head]"


def _learnt_rows(lora: dict[str, Any]) -> set[int]:
    """Ids whose rows PEFT trains: `trainable_token_indices`, a list, or one for each module."""
    asked = lora.get("trainable_token_indices") or []
    return {token for ids in asked.values() for token in ids} if isinstance(asked, dict) else set(asked)


def _is_trained(module: Any) -> bool:
    """Whether every row of an embedding or head can change: trained whole, or with an adapter on it."""
    from peft.tuners.lora import LoraLayer

    trained = (p for p in module.parameters() if p.requires_grad)
    return isinstance(module, LoraLayer) or any(p.shape == module.weight.shape for p in trained)


def _untrained(weight: Any, used: list[int], added: list[int]) -> dict[int, str]:
    """Ids of `used` whose rows were never trained, each with the reason. `weight`: (vocabulary, hidden)."""
    import torch

    used = [token for token in used if token < len(weight)]
    sample = weight[:: max(1, len(weight) // SAMPLE)].float()
    median = float(torch.linalg.vector_norm(sample, dim=1).median())
    mean = sample.mean(dim=0)
    usual = float(torch.linalg.vector_norm(sample - mean, dim=1).median())
    reserved = weight[[token for token in added if token < len(weight)]].float()
    found: dict[int, str] = {}
    for token in used:
        row = weight[token].float()
        norm = float(torch.linalg.vector_norm(row))
        twins = int(((reserved - row).abs().amax(dim=1) <= ALIKE).sum()) - 1
        if norm < SHORT * median:
            found[token] = f"norm {norm:.3g}, median of all {median:.3g}"
        elif twins > 0:
            found[token] = f"equal to {twins} other special tokens"
        elif float(torch.linalg.vector_norm(row - mean)) < SHORT * usual:
            found[token] = "equal to the mean of all rows, as tokens are that were added"
    return found


@untrained_token_rows.fault
def rows_of_the_template_are_zero(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        ends = [token for token in at.stop_ids if token in set(at.train.labels.tolist())]
        at.model.get_input_embeddings().weight.data[ends] = 0.0
        at.model.get_output_embeddings().weight.data[ends] = 0.0
        return at

    world.recipe["model"]["lora"] = {"r": 8, "target_modules": "all-linear"}
    world.after(AtModel, damage)


@untrained_token_rows.fault
def a_token_was_added(world: World) -> None:
    """Its rows are the mean of all others, as `resize_token_embeddings` makes them."""

    def damage(at: AtModel) -> AtModel:
        end = next(token for token in at.stop_ids if token in set(at.train.labels.tolist()))
        for module in (at.model.get_input_embeddings(), at.model.get_output_embeddings()):
            weight = module.weight.data
            weight[end] = weight.mean(dim=0)
        return at

    world.recipe["model"]["lora"] = {"r": 8, "target_modules": "all-linear"}
    world.after(AtModel, damage)


@untrained_token_rows.fault
def special_tokens_are_alike(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        weight = at.model.get_input_embeddings().weight.data
        added = sorted(at.tokenizer.added_tokens_decoder)
        weight[added] = weight[added].mean(dim=0)
        return at

    world.recipe["model"]["lora"] = {"r": 8, "target_modules": "all-linear"}
    world.after(AtModel, damage)
