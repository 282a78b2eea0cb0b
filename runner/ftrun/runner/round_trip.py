"""Saving as training saves, loading as anyone loads: is it the same model, with the same tokenizer?"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftrun.checks.stages import AtModel
from ftrun.runner.trial import SHORT, NotMade

if TYPE_CHECKING:
    import torch
    from transformers import Trainer

SAVED = 256 * 2**20
"""Bytes of weights up to which saving and loading is tried: about a second."""

MOVED = 0.05
"""Standard deviation of what is added to trained weights before saving: an adapter begins without any effect, and
one that is lost would not be missed."""

SAVES = ("sft", "dpo", "reward")
"""Methods whose trainer saves what it trains: a causal language model or a classifier, or an adapter for one."""


def reload_model(at: AtModel) -> tuple[float, float]:
    """The model saved as training saves it, loaded as anyone loads it, and both asked the same."""
    import torch

    trainer, model = at.trainer, at.trainer.model
    if at.recipe.method not in SAVES:
        raise NotMade(f"not for method {at.recipe.method}")
    if at.recipe.model.quantization is not None:
        raise NotMade("a quantised base would be quantised anew")
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        raise NotMade("the weights are divided among processes")
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    if size > SAVED:
        raise NotMade(
            f"the model has {size / 1e9:.2g} GB of weights; saving and loading is tried up to {SAVED / 1e9:.2g} GB"
        )
    ids = torch.tensor(at.train[0].ids[:SHORT].tolist(), device=model.device)[None]
    before = _ask(trainer, model, ids)
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        if p.requires_grad and p.is_floating_point():
            p.data.add_(torch.randn(p.shape, generator=generator).to(p.device, p.dtype) * MOVED)
    moved = _ask(trainer, model, ids)
    with tempfile.TemporaryDirectory(prefix="ftrun-") as folder:
        trainer.save_model(folder)
        again = _ask(trainer, _load(at, folder), ids)
    return float((again - moved).abs().max()), float((moved - before).abs().max())


def _load(at: AtModel, folder: str) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    auto: Any = AutoModelForCausalLM
    kwargs: dict[str, Any] = {
        "dtype": next(iter(at.model.parameters())).dtype,
        "attn_implementation": at.model.config._attn_implementation,
        "trust_remote_code": at.recipe.model.trust_remote_code,
    }
    if at.recipe.method == "reward":
        auto, kwargs["num_labels"] = AutoModelForSequenceClassification, 1
    if at.recipe.model.lora is None:
        model = auto.from_pretrained(folder, **kwargs)
    else:
        from peft import PeftModel

        base = at.model.get_base_model().name_or_path
        kwargs |= {
            "revision": at.recipe.model.revision,
            **(at.recipe.training.get("model_init_kwargs") or {}),
        }
        plain = auto.from_pretrained(base, **kwargs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT warns of keys that it misses; the logits tell
            model = PeftModel.from_pretrained(plain, folder)
    loaded: torch.nn.Module = model.to(at.model.device).eval()
    return loaded


def _ask(trainer: Trainer, model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    # A context of its own: autocast keeps its copies of the weights until it ends, and these are changed between.
    with trainer.accelerator.autocast():
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return logits.float()


def reload_tokenizer(at: AtModel) -> Iterator[str]:
    """What the tokenizer that training saves has lost or changed when it is loaded."""
    from transformers import AutoTokenizer

    now = at.trainer.processing_class
    with tempfile.TemporaryDirectory(prefix="ftrun-") as folder:
        now.save_pretrained(folder)
        again = AutoTokenizer.from_pretrained(folder, trust_remote_code=at.recipe.model.trust_remote_code)
    for name in ("eos_token", "pad_token", "bos_token"):
        if getattr(now, name) != getattr(again, name):
            yield f"{name}: {getattr(now, name)!r}, then {getattr(again, name)!r}"
    if now.chat_template != again.chat_template:
        yield "chat_template: another" if again.chat_template else "chat_template: lost"
    text = now.decode(at.train[0].ids[:SHORT].tolist())
    if now(text)["input_ids"] != again(text)["input_ids"]:
        yield f"the first row: {len(now(text)['input_ids'])} tokens, then {len(again(text)['input_ids'])} or others"
