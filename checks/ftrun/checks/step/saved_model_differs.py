"""The model that is saved is not the model that was trained.

Symptom: training goes well, and the model that is loaded afterwards answers like the base, or speaks gibberish.
Cause: the adapter is saved under names that loading does not know, weights were changed that the adapter does not
hold (a resized embedding, a thawed layer), or the base on disk is another one.
Fix: name every module that changes under `model.lora.modules_to_save`; save a base that was changed, and train from
that folder.
Prevention: `ftrun chat` the trained model before it is given away.
Source: the trained weights are moved, saved and loaded again, and both models are asked the same; a tenth of the
change that moving made is told. Measured: 0.0 for full fine-tuning and LoRA. Only up to 0.27 GB of weights.
peft#2118, peft#1457, axolotl#3585.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtModel, AtStep
from ftrun.checks.trials import made

if TYPE_CHECKING:
    from ftrun.checks.testing import World

PART = 0.1
"""Share of the change that may come back otherwise: half precision rounds when it is saved or computed."""


@check(
    "MODEL023", title="the model that is saved is the one that was trained", methods=("sft", "reward", "dpo")
)
def saved_model_differs(at: AtStep) -> Iterator[Finding]:
    difference, effect = made(at, "reloaded")
    if difference <= PART * effect:
        return
    lora = at.recipe.model.lora is not None
    yield Finding(
        message=f"Saved and loaded again, the model gives logits that differ by up to {difference:.2g} from those of "
        f"the model in memory; changing its trained weights made {effect:.2g}.",
        fix="Name what changes beside the adapters under model.lora.modules_to_save, and train from a base that is "
        "saved as it is."
        if lora
        else "Remove what changes the model after it is loaded, or how it is saved.",
        where=at.where("model.lora" if lora else "model"),
    )


@saved_model_differs.fault
def adapter_is_saved_under_other_names(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        save = at.model.save_pretrained

        def rename(folder: str, **kwargs: Any) -> None:
            from pathlib import Path

            from safetensors.torch import load_file, save_file

            save(folder, **kwargs)
            path = Path(folder, "adapter_model.safetensors")
            weights = load_file(path)
            save_file(
                {name.replace("model.layers", "module.layers"): weights[name] for name in weights}, path
            )

        at.model.save_pretrained = rename
        return at

    world.recipe["model"]["lora"] = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}
    world.after(AtModel, damage)


@saved_model_differs.fault
def base_was_changed_in_memory(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        at.model.get_input_embeddings().weight.data[:64] += 0.5
        return at

    world.recipe["model"]["lora"] = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}
    world.after(AtModel, damage)
