"""Faults of tokens, templates and labels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.faults.materials import (
    ANSWER,
    ASK,
    SYSTEM,
    begin_with_token,
    change_batch,
    copy_model,
    edit_json,
    write_template,
)
from tests.faults.plants import Fault, PlainRun

from ftrun.checks.rows import IGNORED
from ftrun.checks.stages import AtData, AtModel
from ftrun.checks.testing import World, dpo_full, reward_full, sft_chat, sft_full, sft_packed

T001 = Fault(
    "T001",
    "The collator masks labels where they are the padding token, which is also the token that ends an answer.",
    method="sft",
    earliest="data",
    source="transformers#23530, trl#976, trl#3200, open-r1#494",
)


@T001.planted(
    sft_full,
    told="DATA028",
    at="step",
    note="No recipe can bring a collator; rows bring their labels, and a padding token that ends answers is harmless.",
)
def collator_masks_by_id(world: World) -> None:
    def damage(at: Any) -> Any:
        from transformers import DataCollatorForLanguageModeling

        at.tokenizer.pad_token = at.tokenizer.eos_token
        collate = DataCollatorForLanguageModeling(at.tokenizer, mlm=False)
        at.trainer.data_collator = lambda rows: collate([{"input_ids": row["input_ids"]} for row in rows])
        return at

    world.after(AtModel, damage)


T002 = Fault(
    "T002",
    "No answer ends with a token that generation stops on.",
    method="sft",
    earliest="data",
    source="transformers#22794, trl#1623, trl#3091, trl#734, unsloth#416",
)


@T002.planted(sft_chat, told="DATA003", at="data")
def template_writes_no_end(world: World) -> None:
    write_template(world, SYSTEM + ANSWER.replace("<|im_end|>", "") + ASK)


T004 = Fault(
    "T004",
    "The template ends a turn with a token that is no stop token of the tokenizer or the generation config.",
    method="sft",
    earliest="data",
    source="open-r1#603, trl#3299, trl#2059, ms-swift#3113, QwenLM/Qwen3#927, axolotl#2073",
)


@T004.planted(sft_chat, told="DATA003", at="data")
def end_of_turn_is_not_the_end_of_text(world: World) -> None:
    def rename(tokenizer: Any) -> None:
        tokenizer.eos_token = tokenizer.bos_token

    folder = copy_model(world, tokenizer=rename, config=lambda config: config.update(eos_token_id=1))
    edit_json(folder / "generation_config.json", lambda config: config.update(eos_token_id=1))


T006 = Fault(
    "T006",
    "The loss is asked for on the assistant's turns, and the template marks none.",
    method="sft",
    earliest="data",
    source="liquid-finetune#37, marin#7237, trl#4201, Megatron-Bridge#3927",
)


@T006.planted(
    sft_chat, told="DATA004", at="data", note="Not asked for, the last turn alone is trained, and said so."
)
def turns_are_not_marked(world: World) -> None:
    write_template(world, SYSTEM + "{{ m.content + '<|im_end|>\n' }}{% endfor %}" + ASK)
    world.recipe["data"]["loss_on"] = "assistant"


T007 = Fault(
    "T007",
    "Texts begin twice: the tokenizer adds its first token to texts that have it already.",
    method="all",
    earliest="data",
    source="trl#1114, trl#1400, trl#1912, trl#3328, OpenRLHF#393, torchtune#1065",
)


@T007.planted(sft_full, dpo_full, reward_full, told="DATA012", at="data")
def texts_bring_the_token_that_is_added(world: World) -> None:
    copy_model(world, tokenizer=begin_with_token)
    for row in world.rows:
        row["prompt"] = f"<|begin|>{row['prompt']}"


T008 = Fault(
    "T008",
    "The template drops the token that every text of this model begins with.",
    method="all",
    earliest="data",
    source="lm-evaluation-harness#1465, lm-evaluation-harness#2049, unsloth/notebooks#251",
)


@T008.planted(sft_chat, told="DATA015", at="data")
def template_leaves_the_first_token_out(world: World) -> None:
    copy_model(world, tokenizer=begin_with_token)


T009 = Fault(
    "T009",
    "The collator searches the words before an answer, which are tokenised otherwise in their place.",
    method="sft",
    earliest="data",
    source="trl#588, trl#598, trl#980, trl#1183, trl#1820, trl#1920",
)


@T009.planted(
    sft_full, told="DATA028", at="step", note="No recipe can bring a collator; labels come of places."
)
def marker_is_never_found(world: World) -> None:
    def damage(at: Any) -> Any:
        marker = at.tokenizer("### Answer: ", add_special_tokens=False)["input_ids"]

        def search(batch: Any) -> Any:
            for row, ids in enumerate(batch["input_ids"].tolist()):
                if not any(ids[i : i + len(marker)] == marker for i in range(len(ids))):
                    batch["labels"][row] = IGNORED
            return batch

        return change_batch(at, search)

    world.after(AtModel, damage)


def _mask_in_trl(run: PlainRun) -> PlainRun:
    run.trainer.train_dataset = run.trainer.train_dataset.map(
        lambda row: {"labels": [IGNORED] * len(row["input_ids"])}
    )
    return run


T010 = Fault(
    "T010",
    "No token of any row is trained.",
    method="sft",
    earliest="data",
    source="unsloth#823, unsloth#1128, unsloth#2095, unsloth#2364, unsloth#2900",
)


@T010.planted(sft_full, told=("DATA008", "DATA009"), at="data", trl=_mask_in_trl)
def every_label_is_masked(world: World) -> None:
    import numpy as np

    def damage(at: AtData) -> AtData:
        rows = replace(at.train, labels=np.full_like(at.train.labels, IGNORED))
        return replace(
            at,
            train=rows,
            train_dataset=at.train_dataset.map(lambda row: {"labels": [IGNORED] * len(row["labels"])}),
        )

    world.recipe["training"]["max_length"] = None
    world.after(AtData, damage)


T011 = Fault(
    "T011",
    "Rows that are cut have no trained token, since the end of the answer was looked for beyond the cut.",
    method="sft",
    earliest="data",
    source="transformers#34494",
)


@T011.planted(sft_chat, told="DATA009", at="data", trl="TRL makes the mask before it cuts")
def rows_that_are_cut_lose_their_mask(world: World) -> None:
    def damage(at: AtData) -> AtData:
        labels = at.train.labels.copy()
        for start, end, full in zip(
            at.train.starts[:-1], at.train.starts[1:], at.train.full_lengths, strict=True
        ):
            if full > end - start:
                labels[start:end] = IGNORED
        return replace(at, train=replace(at.train, labels=labels))

    world.recipe["training"]["max_length"] = 96
    for row in world.rows[:4]:
        row["messages"][-1]["content"] *= 4
    world.after(AtData, damage)


T012 = Fault(
    "T012",
    "Prompts fill max_length, so that rows lose every trained token and are dropped.",
    method="sft",
    earliest="data",
    source="trl#6320, trl#6321",
)


@T012.planted(sft_full, told="DATA009", at="data")
def prompts_fill_the_length(world: World) -> None:
    world.recipe["training"]["max_length"] = 64
    for row in world.rows[::2]:
        row["prompt"] = "Here is a long story about the house. " * 20


T013 = Fault(
    "T013",
    "Prompts fill max_length in a packed run: nothing is dropped, and the loss is 0 throughout.",
    method="sft",
    earliest="data",
    source="trl#6320, trl#4632",
)


@T013.planted(sft_full, told="DATA009", at="data")
def prompts_fill_the_packs(world: World) -> None:
    world.recipe["training"] |= {"max_length": 64, "packing": True}
    for row in world.rows:
        row["prompt"] = "Here is a long story about the house. " * 20


T014 = Fault(
    "T014",
    "Answers are cut at max_length and lose their ends.",
    method="sft",
    earliest="data",
    source="LLaMA-Factory#3995, LLaMA-Factory#3143, LLaMA-Factory#1665, LLaMA-Factory#1136",
)


@T014.planted(sft_full, dpo_full, told="DATA011", at="data")
def answers_are_too_long(world: World) -> None:
    world.recipe["training"]["max_length"] = 64
    for row in world.rows:
        row |= {side: row[side] * 10 for side in ("completion", "chosen", "rejected") if side in row}


T015 = Fault(
    "T015",
    "Packing cuts what overflows a pack and throws it away.",
    method="sft",
    earliest="data",
    source="trl#4632, axolotl#775",
)


@T015.planted(sft_packed, told=("DATA011", "DATA013"), at="data")
def rows_overflow_their_packs(world: World) -> None:
    world.recipe["training"]["max_length"] = 64
    for row in world.rows[:8]:
        row["text"] *= 12


T016 = Fault(
    "T016",
    "Packed documents see each other.",
    method="sft",
    earliest="step",
    source="trl#805, trl#1235, trl#3526, LLaMA-Factory#2289, functionary#265, alignment-handbook#204",
)


@T016.planted(sft_full, told="DATA025", at="data")
def documents_are_wrapped(world: World) -> None:
    world.recipe["training"] |= {"packing": True, "packing_strategy": "wrapped", "max_length": 128}


@T016.planted(sft_full, told="TRAIN034", at="step")
def attention_does_not_know_the_boundaries(world: World) -> None:
    def damage(at: Any) -> Any:
        import torch

        def forget(module: Any, args: Any, kwargs: Any) -> Any:
            positions = kwargs.get("position_ids")
            if positions is not None:
                kwargs["position_ids"] = torch.arange(positions.shape[1])[None]
                for name in ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx"):
                    kwargs.pop(name, None)
            return args, kwargs

        at.model.base_model.register_forward_pre_hook(forget, with_kwargs=True)
        return at

    world.recipe["training"] |= {"packing": True, "max_length": 128}
    world.after(AtModel, damage)


T027 = Fault(
    "T027",
    "The template leaves out what the system message says.",
    method="all",
    earliest="data",
    source="LLaMA-Factory, 12 August 2024, repair of Llama's system prompt",
)


@T027.planted(sft_chat, told="DATA017", at="data")
def system_is_skipped(world: World) -> None:
    without = SYSTEM.replace("in messages", "in messages if m.role != 'system'")
    write_template(world, without + ANSWER + ASK)


T028 = Fault(
    "T028",
    "The trained spans hold the user's turns as well.",
    method="sft",
    earliest="data",
    source="Megatron-Bridge#3927, axolotl#1801",
)


@T028.planted(sft_chat, told="DATA008", at="data")
def every_turn_is_marked(world: World) -> None:
    write_template(
        world,
        "{% for m in messages %}{% generation %}{{ '<|im_start|>' + m.role + '\n' + m.content }}"
        "{{ '<|im_end|>\n' }}{% endgeneration %}{% endfor %}",
    )


T029 = Fault(
    "T029",
    "Roles have the names of another format (human, gpt).",
    method="sft",
    earliest="data",
    source="trl#2083, axolotl#752, axolotl#1179, axolotl#723",
)


@T029.planted(sft_full, told="DATA004", at="data")
def roles_are_human_and_gpt(world: World) -> None:
    world.rows = [
        {
            "messages": [
                {"role": "human", "content": row["prompt"]},
                {"role": "gpt", "content": row["completion"]},
            ]
        }
        for row in world.rows
    ]


@T029.planted(sft_full, told="DATA005", at="data")
def turns_keep_from_and_value(world: World) -> None:
    world.rows = [
        {
            "conversations": [
                {"from": "human", "value": row["prompt"]},
                {"from": "gpt", "value": row["completion"]},
            ]
        }
        for row in world.rows
    ]
    world.recipe["data"]["train"][0]["columns"] = {"messages": "conversations"}


T031 = Fault(
    "T031",
    "The padding token is one that texts contain.",
    method="all",
    earliest="model",
    source="unsloth#4104, unsloth#6524, unsloth#6652, torchtune#2425",
)


@T031.planted(sft_full, dpo_full, told="MODEL014", at="model")
def padding_is_a_letter(world: World) -> None:
    copy_model(world, tokenizer=lambda tokenizer: setattr(tokenizer, "pad_token", "e"))


T032 = Fault(
    "T032",
    "Reading tables fills in fields of other tools with null, and the template writes them.",
    method="sft",
    earliest="data",
    source="trl#5376",
)


@T032.planted(sft_chat, told="DATA027", at="data")
def tools_have_fields_of_each_other(world: World) -> None:
    def describe(name: str, field: str, other: str) -> dict[str, Any]:
        properties = {field: {"type": "string"}, other: None}
        parameters = {"type": "object", "properties": properties}
        return {
            "type": "function",
            "function": {"name": name, "description": "looks", "parameters": parameters},
        }

    for row in world.rows:
        row["tools"] = [describe("look", "room", "street"), describe("walk", "street", "room")]
    world.recipe["training"]["max_length"] = 1024
    world.recipe["model"]["chat_template"] = "qwen3_training"


T033 = Fault(
    "T033",
    "An answer of a pair ends more than once.",
    method="dpo",
    earliest="data",
    source="trl#1591, trl#1885, trl#4908, trl#741, trl#2332",
)


@T033.planted(
    dpo_full, reward_full, told="DATA024", at="data", note="One end in the text is not added again."
)
def answers_bring_two_ends(world: World) -> None:
    for row in world.rows:
        row["chosen"] += "<|im_end|><|im_end|>"
