"""The reference that the recipe names has another vocabulary than the policy.

Symptom: an index out of range in the reference, or rewards without any sense: the same ids are other words there.
Cause: `model.reference` is a model of another family, or one whose tokenizer was trained anew.
Fix: name a model with the policy's tokenizer, such as the policy's own start.
Source: DPO compares log-probabilities of the same tokens (arXiv 2305.18290, equation 7). Sizes are compared, and the
words of the tokens that the rows use, added ones left out, where the reference brings a tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.reference import own_reference
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    from ftrun.checks.testing import World


@check("DPO011", title="policy and reference have one vocabulary", methods=("dpo",))
def reference_of_another_vocabulary(at: AtModel) -> Iterator[Finding]:
    recipe: Any = at.recipe
    if recipe.model.reference is None:
        raise NotApplicable("the reference is the policy as it starts")
    ours = at.model.get_input_embeddings().weight.shape[0]
    theirs = own_reference(at.trainer).get_input_embeddings().weight.shape[0]
    if ours != theirs:
        needed = max(int(block.ids.max()) for _, block in at.train.blocks()) + 1
        yield Finding(
            f"model.reference has {theirs:,} words and the policy {ours:,}: the same ids are other words there.",
            "Name a model under model.reference that has the policy's tokenizer.",
            at.where("model.reference"),
            # Embeddings padded to different lengths may belong to one tokenizer.
            severity="error" if theirs < needed else "warning",
        )
        return
    other = _read_otherwise(at)
    if other:
        first = next(iter(other))
        yield Finding(
            f"{len(other)} of the tokens that the rows use are other words to model.reference: {first} is "
            f"{other[first][0]!r} here and {other[first][1]!r} there.",
            "Name a model under model.reference that has the policy's tokenizer.",
            at.where("model.reference"),
        )


def _read_otherwise(at: AtModel) -> dict[int, tuple[str, str]]:
    """Ids that the rows use and that the tokenizer of the reference takes for another word."""
    import numpy as np
    from transformers import AutoTokenizer

    folder = own_reference(at.trainer).config._name_or_path
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=at.recipe.model.trust_remote_code
        )
    except (OSError, ValueError):  # a reference needs no tokenizer of its own
        return {}
    used = np.unique(np.concatenate([np.unique(block.ids) for _, block in at.train.blocks()])).tolist()
    words = zip(
        used, at.tokenizer.convert_ids_to_tokens(used), tokenizer.convert_ids_to_tokens(used), strict=True
    )
    added = {*at.tokenizer.added_tokens_decoder, *tokenizer.added_tokens_decoder}
    # A token that was added may have another name: a reserved one that a template uses.
    return {id: (ours, theirs) for id, ours, theirs in words if ours != theirs and id not in added}


@reference_of_another_vocabulary.fault
def its_words_are_in_another_order(world: World) -> None:
    import json
    import shutil

    def damage(at: AtModel) -> AtModel:
        trainer: Any = at.trainer
        folder = world.folder / "reference"
        shutil.copytree(at.model_folder, folder)
        path = folder / "tokenizer.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        words = content["model"]["vocab"]
        moved = [word for word, id in words.items() if id >= 300]
        words |= dict(zip(moved, [words[word] for word in reversed(moved)], strict=True))
        path.write_text(json.dumps(content), encoding="utf-8")
        trainer.ref_model.config._name_or_path = str(folder)
        return at

    world.recipe["model"]["reference"] = "tiny"
    world.after(AtModel, damage)


@reference_of_another_vocabulary.fault
def a_model_of_another_family(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        at.trainer.ref_model.resize_token_embeddings(64)
        return at

    world.recipe["model"]["reference"] = "tiny"
    world.after(AtModel, damage)
