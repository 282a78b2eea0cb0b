"""Documents that are packed together see each other.

Symptom: the loss is lower than it should be, and the model brings up what other documents said.
Cause: the model does not read the positions by which packing marks the boundaries between documents (OPT), or its
state runs on over them (Mamba).
Fix: set `training.packing: false`, or another `model.attention` where the model has one.
Source: the first document of a pack is exchanged, and the logits of the second may not move. Measured: 0.0 with sdpa
and eager attention of Llama, GPT-2, Qwen, Gemma, GPT-NeoX and Mixtral, 0.01 with OPT, 1.5 with Mamba, 0.5 with a
Llama without boundaries; 1e-3 of a logit (2e-2 in half precision) is told, for plain text as a warning. trl#805,
LLaMA-Factory#2289, functionary#265.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.stages import AtModel, AtStep
from ftrun.checks.trials import COARSE, made, tolerance

if TYPE_CHECKING:
    from ftrun.checks.testing import World

MOVED = 1e-3


@check("TRAIN034", title="packed documents do not see each other", methods=("sft",))
def packed_documents_mix(at: AtStep) -> Iterator[Finding]:
    change = made(at, "packed")
    if change > max(MOVED, tolerance(at) if tolerance(at) == COARSE else 0.0):
        attention = at.model.config._attn_implementation
        is_text = all(source.format == "text" for source in at.train.sources)
        yield Finding(
            message=f"When the first document of a pack is another, logits of the second change by up to {change:.2g}: "
            f"what this model ({at.model.config.model_type}, attention {attention}) remembers goes over the boundary.",
            fix="Set training.packing to false: models of this kind do not heed the boundaries.",
            where=at.where("training.packing"),
            patch=Patch("training.packing", False),
            severity="warning" if is_text else "error",
        )


@packed_documents_mix.fault
def positions_are_ignored(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        def run_on(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            import torch

            marks = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx")
            kept = {name: value for name, value in kwargs.items() if name not in marks}
            return args, {**kept, "position_ids": torch.arange(kwargs["position_ids"].shape[1])[None]}

        at.model.base_model.register_forward_pre_hook(run_on, with_kwargs=True)
        return at

    world.recipe["training"] |= {"packing": True, "max_length": 128}
    world.after(AtModel, damage)
