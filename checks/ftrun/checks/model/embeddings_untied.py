"""Embedding and head share their weights in the model's configuration, and not in what is trained.

Symptom: what is trained in one is not in the other; the merged model speaks otherwise than the trained one.
Cause: the model ties its embedding and its head, and `model.lora` trains one of them, or a copy of each.
Fix: set `model.lora.ensure_weight_tying: true`, or train adapters on other modules and the rows of new tokens by
`trainable_token_indices`, which keeps the tie.
Source: peft#2025, peft#2864, accelerate#2137.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    import torch

    from ftrun.checks.testing import World


@check("MODEL021", title="what the model ties stays tied")
def embeddings_untied(at: AtModel) -> Iterator[Finding]:
    if at.recipe.model.lora is None:
        raise NotApplicable("no LoRA: what is tied is one weight")
    read, written = at.model.get_input_embeddings(), at.model.get_output_embeddings()
    if read is None or written is None or _base(read).data_ptr() != _base(written).data_ptr():
        raise NotApplicable("the model does not tie its embedding and its head")
    adapted = [name for name, module in (("embedding", read), ("head", written)) if _has_adapter(module)]
    if _active(read).data_ptr() == _active(written).data_ptr() and len(adapted) != 1:
        return
    seen = f"an adapter on the {adapted[0]} alone" if len(adapted) == 1 else "weights of their own for both"
    key = "target_modules" if adapted else "modules_to_save"
    yield Finding(
        message=f"The model ties its embedding and its head, and model.lora.{key} gives {seen}.",
        fix="Set model.lora.ensure_weight_tying to true, or leave embedding and head out of model.lora.",
        where=at.where(f"model.lora.{key}"),
        patch=Patch("model.lora.ensure_weight_tying", True),
    )


def _base(module: Any) -> torch.Tensor:
    """The weights of the base, under what PEFT wraps around them."""
    inner = getattr(module, "original_module", module)
    weight: torch.Tensor = getattr(inner, "base_layer", inner).weight
    return weight


def _active(module: Any) -> torch.Tensor:
    """The weights that a forward pass starts from: those of PEFT's copy where it trains one."""
    copies = getattr(module, "modules_to_save", None)
    return _base(module) if copies is None else _base(copies[module.active_adapters[0]])


def _has_adapter(module: Any) -> bool:
    from peft.tuners.lora import LoraLayer

    return isinstance(module, LoraLayer)


@embeddings_untied.fault
def embedding_alone_is_saved_whole(world: World) -> None:
    _wrap_tied(world, target_modules=["q_proj"], modules_to_save=["embed_tokens"])


@embeddings_untied.fault
def embedding_alone_has_an_adapter(world: World) -> None:
    _wrap_tied(world, target_modules=["q_proj", "embed_tokens"])


def _wrap_tied(world: World, **settings: Any) -> None:
    """Tie the embedding and the head of the base, and wrap it anew; PEFT warns, and goes on."""

    def damage(at: AtModel) -> AtModel:
        import warnings

        from peft import LoraConfig, get_peft_model

        base: Any = at.model.unload()
        base.lm_head.weight = base.model.embed_tokens.weight
        base.config.tie_word_embeddings = True
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model: Any = get_peft_model(base, LoraConfig(r=8, **settings))
        return replace(at, model=model)

    world.recipe["model"]["lora"] = {"r": 8, **settings}
    world.after(AtModel, damage)
