"""The model does not load.

Symptom: the run ends before its first step, with an error of transformers, PEFT or TRL.
Cause: the weights are not where `model.path` points, are damaged, do not fit into memory, or `model:` asks for
something that this model or machine does not have.
Fix: the finding names the key, and what exists in its place.
Prevention: run `ftrun preflight` where the run will be.
Source: peft#40, petals#508 (target modules of another family).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.stages import ModelFailed

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from ftrun.checks.testing import World

CAUSES = (
    (
        r"^ModelError: reward\.models",
        "reward.models",
        "Name a reward model under reward.models: a classifier with one score, and its tokenizer.",
    ),
    (
        r"^ModelError: reward\.functions",
        "reward.functions",
        "Correct the file or the name under reward.functions.",
    ),
    (
        r"does not support an attention implementation through torch",
        "model.attention",
        "Set model.attention to eager.",
    ),
    (
        r"out of memory|OutOfMemory|can't allocate memory|DefaultCPUAllocator",
        "model.path",
        "Free memory, or train a smaller model; model.lora with model.quantization: 4bit needs a quarter of it.",
    ),
    (
        r"is incompatible with Mamba-based models",
        "model.lora.target_modules",
        "Name the modules to adapt under model.lora.target_modules, without those that the message calls incompatible.",
    ),
    (
        r"[Tt]arget modules?\b.*(not found|not supported)|No modules were targeted|All modules were excluded"
        r"|remove it from `target_modules`",
        "model.lora.target_modules",
        "Name modules that this model has under model.lora.target_modules, or write all-linear.",
    ),
    (
        r"`lm_head` is not supported",
        "model.lora.target_modules",
        "Leave lm_head out of model.lora.target_modules; to train it whole, name it under modules_to_save.",
    ),
    (
        r"no file named|does not appear to have a file",
        "model.path",
        "Point model.path to a folder that holds the weights (model.safetensors) beside config.json.",
    ),
    (
        r"gated repo|401 Client Error|403 Client Error|restricted",
        "model.path",
        "Ask for access on the model's page, then sign in with `hf auth login`.",
    ),
    (
        r"not a valid model identifier|404 Client Error|Repository Not Found|RevisionNotFound",
        "model.path",
        "Correct model.path (owner/name, or a folder relative to the recipe) and model.revision.",
    ),
    (
        r"couldn't connect|LocalEntryNotFound|outgoing traffic has been disabled|Max retries exceeded",
        "model.path",
        "Download the model where there is a network, and point model.path to its folder.",
    ),
    (
        r"deserializing header|invalid load key|InvalidHeader|MetadataIncompleteBuffer",
        "model.path",
        "Download the weights again: the file is cut off, or a Git LFS pointer stands in its place.",
    ),
    (
        r"size mismatch|ignore_mismatched_sizes",
        "model.path",
        "Use the config.json that belongs to these weights.",
    ),
    (
        r"FlashAttention|flash_attn|attn_implementation",
        "model.attention",
        "Set model.attention to sdpa, or install the package that the message names.",
    ),
    (
        r"bitsandbytes optimizers",
        "training.optim",
        "Install bitsandbytes (`pip install bitsandbytes`), or choose another training.optim.",
    ),
    (
        r"^StopIteration",
        "data.train",
        "Raise training.max_length, or correct the rows: none is left to train.",
    ),
    (r"pad_token", "model.path", "Set pad_token in the tokenizer_config.json of the model."),
    (r"^ModelError: training: ", "training", "Change the setting under training: that the message names."),
    (
        r"^ModelError: model\.lora: ",
        "model.lora",
        "Change the setting under model.lora that the message names.",
    ),
)
"""What an error's text tells: a pattern, the recipe's key, and what to do. The first that fits counts."""


@check("MODEL001", title="the model loads")
def model_does_not_load(failed: ModelFailed) -> Iterator[Finding]:
    text = "\n".join(f"{type(one).__name__}: {one}" for one in _chain(failed.error))
    key, fix = next(
        ((key, fix) for pattern, key, fix in CAUSES if re.search(pattern, text)),
        ("model", "Correct what the message names."),
    )
    names = _linear_names(failed.model_config) if key == "model.lora.target_modules" else ()
    lines = [line.strip() for line in str(failed.error).splitlines() if line.strip()]
    yield Finding(
        message=(
            ""
            if key.startswith("reward.")
            else f"The model {failed.recipe.model.path} could not be made ready to train: "
            f"{type(failed.error).__name__}: "
        )
        + (lines[0] if lines else "no text"),
        fix=fix,
        where=failed.where(key),
        evidence=(f"linear modules of this model: {', '.join(names)}",) if names else (),
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _linear_names(config: PretrainedConfig) -> tuple[str, ...]:
    """Last parts of the names of the linear modules; none where the architecture is not transformers' own."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except ValueError:
        return ()
    linear = (torch.nn.Linear, Conv1D)
    found = (name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, linear))
    return tuple(dict.fromkeys(found))


@model_does_not_load.fault
def target_modules_of_another_family(world: World) -> None:
    world.recipe["model"]["lora"] = {"r": 8, "target_modules": ["query_key_value"]}


@model_does_not_load.fault
def folder_without_weights(world: World) -> None:
    import shutil
    from dataclasses import replace

    from ftrun.checks.stages import AtData

    def damage(at: AtData) -> AtData:
        folder = world.folder / "weightless"
        shutil.copytree(at.model_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
        return replace(at, model_folder=str(folder))

    world.after(AtData, damage)


@model_does_not_load.fault
def weights_cut_off(world: World) -> None:
    import shutil
    from dataclasses import replace

    from ftrun.checks.stages import AtData

    def damage(at: AtData) -> AtData:
        folder = world.folder / "damaged"
        shutil.copytree(at.model_folder, folder)
        (folder / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
        return replace(at, model_folder=str(folder))

    world.after(AtData, damage)
