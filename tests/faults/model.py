"""Faults of weights, adapters and the optimizer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.faults.materials import copy_model, make_model, remake_optimizer
from tests.faults.plants import Fault, Unplanted

from ftrun.checks.stages import AtModel
from ftrun.checks.testing import World, dpo_lora, ppo_lora, reward_lora, sft_full, sft_lora

M001 = Fault(
    "M001",
    "The names of LoRA's target modules match no module.",
    method="all",
    earliest="model",
    source="peft#40, petals#508",
)


@M001.planted(sft_lora, reward_lora, told="MODEL001", at="model")
def targets_of_another_family(world: World) -> None:
    world.recipe["model"]["lora"]["target_modules"] = ["query_key_value"]


M002 = Fault(
    "M002",
    "Some names of LoRA's target modules match no module.",
    method="all",
    earliest="model",
    source="peft#1959, peft#3658, peft#3600, Megatron-Bridge#1738, SimpleTuner#766",
)


@M002.planted(sft_lora, dpo_lora, reward_lora, ppo_lora, told="MODEL004", at="model")
def one_target_is_misspelt(world: World) -> None:
    world.recipe["model"]["lora"]["target_modules"] = ["q_proj", "v_projj", "gate"]


M003 = Fault(
    "M003",
    "LoRA reaches few of the layers.",
    method="all",
    earliest="model",
    source="peft#3554, peft#3658",
)


@M003.planted(sft_lora, told="MODEL004", at="model")
def adapters_reach_one_layer_of_four(world: World) -> None:
    def damage(at: Any) -> Any:
        for layer in at.model.get_base_model().model.layers[1:]:
            layer.self_attn.q_proj = layer.self_attn.q_proj.get_base_layer()
        remake_optimizer(at.trainer)
        return at

    make_four_layers(world)
    world.recipe["model"]["lora"]["target_modules"] = ["q_proj"]
    world.after(AtModel, damage)


def make_four_layers(world: World) -> None:
    """Give the world a model of four layers."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=3,
    )
    make_model(world, AutoModelForCausalLM.from_config(config))


M004 = Fault(
    "M004",
    "A name of the modules that are to be trained whole matches none.",
    method="all",
    earliest="model",
    source="peft#1496, peft#2334, peft#2481",
)


@M004.planted(sft_lora, told="MODEL004", at="model")
def module_to_save_is_misspelt(world: World) -> None:
    world.recipe["model"]["lora"]["modules_to_save"] = ["embed_token"]


def add_tokens(world: World, *, resize: bool, **how: Any) -> None:
    """Add two tokens, which every answer is wrapped in."""

    def add(tokenizer: Any) -> None:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|fact|>", "<|end_fact|>"]})

    copy_model(
        world,
        tokenizer=add,
        weights=(lambda model: model.resize_token_embeddings(1026, **how)) if resize else None,
    )
    for row in world.rows:
        row["completion"] = f"<|fact|>{row['completion']}<|end_fact|>"


M005 = Fault(
    "M005",
    "Answers hold tokens that were added, and under LoRA their embeddings and the head are frozen.",
    method="sft",
    earliest="model",
    source="peft#334, peft#337, peft#1147, peft#2589, peft#2376, axolotl#787",
)


@M005.planted(sft_lora, told="MODEL013", at="model")
def added_rows_are_the_mean(world: World) -> None:
    add_tokens(world, resize=True)


@M005.planted(sft_lora, told=(), note="Rows that were drawn are like those of other tokens.")
def added_rows_are_drawn(world: World) -> None:
    add_tokens(world, resize=True, mean_resizing=False)


M006 = Fault(
    "M006",
    "Embeddings that were resized or changed are not saved with the adapter.",
    method="sft",
    earliest="step",
    source="peft#1457, peft#1300, peft#2898, peft#2427, sentence-transformers#3052",
)


@M006.planted(sft_lora, told="MODEL023", at="step")
def embeddings_were_changed_in_memory(world: World) -> None:
    def damage(at: Any) -> Any:
        at.model.get_input_embeddings().weight.data[3:10] += 0.5
        return at

    world.after(AtModel, damage)


M007 = Fault(
    "M007",
    "The tokenizer has more tokens than the model has embeddings.",
    method="all",
    earliest="model",
    source="axolotl#2257, trl#3763",
)


@M007.planted(sft_full, told="DATA014", at="data")
def tokens_are_added_without_rows(world: World) -> None:
    add_tokens(world, resize=False)


M008 = Fault(
    "M008",
    "The template uses tokens that the base model never learnt, and their embeddings are frozen.",
    method="sft",
    earliest="model",
    source="unsloth#658, unsloth#915, unsloth#1056, unsloth#1072, axolotl#1771, torchtune#2429",
)


@M008.planted(sft_lora, told="MODEL013", at="model")
def rows_of_the_end_are_zero(world: World) -> None:
    def zero(model: Any) -> None:
        for module in (model.get_input_embeddings(), model.get_output_embeddings()):
            module.weight.data[[2, 3]] = 0.0

    copy_model(world, weights=zero)


M009 = Fault(
    "M009",
    "A copy of one of two tied layers is trained.",
    method="sft",
    earliest="model",
    source="peft#2025, accelerate#3878, accelerate#2137",
)


@M009.planted(sft_lora, told="MODEL021", at="model")
def one_of_two_tied_layers_is_saved_whole(world: World) -> None:
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(
        vocab_size=1024,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        tie_word_embeddings=True,
    )
    make_model(world, AutoModelForCausalLM.from_config(config))
    world.recipe["model"]["lora"] |= {
        "target_modules": ["q_proj", "v_proj"],
        "modules_to_save": ["embed_tokens"],
    }


M011 = Fault(
    "M011",
    "An adapter is loaded to go on with, and is frozen.",
    method="all",
    earliest="model",
    source="peft#282, peft#184, peft#1340, trl#363, trl#3031, trl#6700, transformers#24463",
)


@M011.planted(sft_full, told=("MODEL002", "MODEL003"), at="model")
def adapter_is_loaded_for_inference(world: World) -> None:
    def damage(at: Any) -> Any:
        from peft import LoraConfig, PeftModel, get_peft_model

        folder = str(world.folder / "adapter")
        adapted = get_peft_model(at.model, LoraConfig(r=8, target_modules="all-linear"))
        adapted.save_pretrained(folder)
        loaded = PeftModel.from_pretrained(adapted.unload(), folder)
        at.trainer.model = loaded
        return replace(at, model=loaded)

    world.after(AtModel, damage)


M013 = Fault(
    "M013",
    "Adapters are frozen after they were made, as by a second preparation for quantised weights.",
    method="all",
    earliest="model",
    source="trl#4081",
)


@M013.planted(sft_lora, dpo_lora, ppo_lora, told=("MODEL002", "MODEL003"), at="model")
def everything_is_frozen_again(world: World) -> None:
    def damage(at: Any) -> Any:
        at.model.requires_grad_(False)
        return at

    world.after(AtModel, damage)


M014 = Fault(
    "M014",
    "Checkpointing cuts the graph under LoRA, since no input of the first layer needs a gradient.",
    method="all",
    earliest="step",
    source="peft#1142, microsoft/LoRA#120, FastChat#581, transformers#42489, trl#3785, trl#1664",
)


@M014.planted(sft_lora, told=("TRAIN014", "TRAIN017"), at="step")
def inputs_need_no_gradient(world: World) -> None:
    def damage(at: Any) -> Any:
        for model in (at.model, at.model.base_model.model):
            model.enable_input_require_grads = lambda: None
        at.model.disable_input_require_grads()
        return at

    world.recipe["training"] |= {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": True},
    }
    world.after(AtModel, damage)


M016 = Fault(
    "M016",
    "Adapters have no strength.",
    method="all",
    earliest="model",
    source="peft#2775, axolotl#1445",
)


@M016.planted(sft_lora, dpo_lora, reward_lora, told="MODEL010", at="model")
def alpha_is_zero(world: World) -> None:
    world.recipe["model"]["lora"]["lora_alpha"] = 0


M017 = Fault(
    "M017",
    "Nearly all of the model is frozen.",
    method="all",
    earliest="model",
    source="axolotl#1686, axolotl#3416, accelerate#2665",
)


@M017.planted(sft_full, told=("MODEL002", "MODEL009", "MODEL011"), at="model")
def norms_alone_are_trained(world: World) -> None:
    def damage(at: Any) -> Any:
        for name, weight in at.model.named_parameters():
            weight.requires_grad_("norm" in name)
        return at

    world.after(AtModel, damage)


M018 = Fault(
    "M018",
    "Weights in bfloat16 at a small rate: updates round to nothing.",
    method="all",
    earliest="step",
    source="torchtune#2254, AReaL#1292, apex#1728, Automodel#3444, trl#7268",
)


@M018.planted(sft_full, told="MODEL006", at="model")
def bfloat16_at_a_small_rate(world: World) -> None:
    world.recipe["model"]["dtype"] = "bfloat16"
    world.recipe["training"]["learning_rate"] = 1e-6


M022 = Fault(
    "M022",
    "Rows are longer than the model has positions.",
    method="all",
    earliest="model",
    source="unsloth#6197, LLaMA-Factory#9588, LLaMA-Factory#5952",
)


@M022.planted(sft_full, told="DATA018", at="data")
def positions_are_few(world: World) -> None:
    copy_model(world, config=lambda config: config.update(max_position_embeddings=16))


M023 = Fault(
    "M023",
    "The optimizer holds other parameters than the model trains.",
    method="all",
    earliest="step",
    source="accelerate#2665, accelerate#3256, accelerate#3845, accelerate#3835, accelerate#3560",
)


@M023.planted(sft_full, dpo_lora, told="MODEL009", at="model")
def optimizer_of_a_copy(world: World) -> None:
    def damage(at: Any) -> Any:
        from copy import deepcopy

        import torch

        at.trainer.optimizer = torch.optim.AdamW(deepcopy(at.model).parameters(), lr=1e-4)
        return at

    world.after(AtModel, damage)


M024 = Unplanted(
    Fault(
        "M024",
        "The model is called past its wrapper for several processes, whose weights drift apart.",
        method="all",
        earliest="training",
        source="DeepSpeed#1801, x.com/jxmnop 1778436832075678100",
    ),
    reason="not applicable here",
    why="needs several processes; a guard of training has to compare their weights",
)

M026 = Fault(
    "M026",
    "The adapter is saved under names that loading does not know: loaded, it does nothing.",
    method="all",
    earliest="step",
    source="peft#2118, axolotl#3585, axolotl#3779",
)


@M026.planted(sft_lora, dpo_lora, told="MODEL023", at="step")
def adapter_is_saved_under_other_names(world: World) -> None:
    def damage(at: Any) -> Any:
        save = at.model.save_pretrained

        def rename(folder: str, *args: Any, **kwargs: Any) -> None:
            from safetensors.torch import load_file, save_file

            save(folder, *args, **kwargs)
            path = Path(folder, "adapter_model.safetensors")
            renamed = {
                name.replace("base_model.model.", "base_model.model._orig_mod."): weight
                for name, weight in load_file(path).items()
            }
            save_file(renamed, path)

        at.model.save_pretrained = rename
        return at

    world.after(AtModel, damage)


M027 = Fault(
    "M027",
    "Adapters drop out although the recipe says that they do not.",
    method="sft",
    earliest="model",
    source="torchtune#995, axolotl#3806",
)


@M027.planted(sft_lora, told="MODEL022", at="model")
def dropout_that_nobody_asked_for(world: World) -> None:
    def damage(at: Any) -> Any:
        import torch

        for module in at.model.modules():
            if hasattr(module, "lora_dropout"):
                module.lora_dropout["default"] = torch.nn.Dropout(0.5)
        return at

    world.after(AtModel, damage)
