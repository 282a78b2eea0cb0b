"""Faults of pairs: DPO and reward models."""

from __future__ import annotations

from typing import Any

from tests.faults.materials import copy_model, make_scorer
from tests.faults.plants import Fault, PlainRun

from ftrun.checks.model import score_depends_on_batch
from ftrun.checks.stages import AtModel
from ftrun.checks.testing import World, dpo_full, reward_full

P001 = Fault(
    "P001",
    "Beta is 0: nothing is learnt.",
    method="dpo",
    earliest="recipe",
    source="trl#1627, trl#1311, axolotl#2538",
)


@P001.planted(dpo_full, told="DPO001", at="recipe")
def a_beta_of_zero(world: World) -> None:
    world.recipe["training"]["beta"] = 0.0


P003 = Fault(
    "P003",
    "Both answers of a pair are the same.",
    method="dpo",
    earliest="data",
    source="trl#1627, trl#1311, trainsight",
)


@P003.planted(dpo_full, reward_full, told="DATA040", at="data")
def the_rejected_answer_is_the_chosen_one(world: World) -> None:
    for row in world.rows[::4]:
        row["rejected"] = row["chosen"]


P004 = Fault(
    "P004",
    "Cut at max_length, both answers of a pair are the same.",
    method="dpo",
    earliest="data",
    source="trl#3398, trl#2332, trl#5305, trl#5350, axolotl#1584",
)


@P004.planted(dpo_full, told=("DPO006", "DATA011"), at="data", note="Both say that max_length is too short.")
def answers_begin_alike(world: World) -> None:
    world.recipe["training"]["max_length"] = 40
    shared = "Let me think about the rooms of this house one after the other. " * 3
    for row in world.rows:
        row["chosen"], row["rejected"] = shared + row["chosen"], shared + row["rejected"]


P006 = Fault(
    "P006",
    "Answers repeat the prompt.",
    method="dpo",
    earliest="data",
    source="trl#6433",
)


@P006.planted(dpo_full, reward_full, told="DATA043", at="data")
def answers_are_whole_texts(world: World) -> None:
    for row in world.rows:
        row["chosen"], row["rejected"] = row["prompt"] + row["chosen"], row["prompt"] + row["rejected"]


P008 = Fault(
    "P008",
    "The reference is the policy itself.",
    method="dpo",
    earliest="model",
    source="trl#2057",
)


def _pass_policy_as_reference(run: PlainRun) -> PlainRun:
    trainer = run.trainer
    type(trainer)(
        model=run.model, ref_model=run.model, args=trainer.args, train_dataset=trainer.train_dataset
    )
    return run


@P008.planted(
    dpo_full,
    told=("DPO007", "DPO009"),
    at="model",
    trl=_pass_policy_as_reference,
    note="ftrun loads the reference itself.",
)
def one_model_is_both(world: World) -> None:
    def damage(at: Any) -> Any:
        at.trainer.ref_model = at.trainer.model
        return at

    world.after(AtModel, damage)


P009 = Fault(
    "P009",
    "The reference shares its weights with the policy.",
    method="dpo",
    earliest="model",
    source="trl#703, trl#6053, trl#2057",
)


@P009.planted(dpo_full, told="DPO009", at="model")
def weights_are_assigned(world: World) -> None:
    def damage(at: Any) -> Any:
        at.trainer.ref_model.load_state_dict(at.model.state_dict(), assign=True)
        at.trainer.ref_model.requires_grad_(False)
        return at

    world.after(AtModel, damage)


P014 = Fault(
    "P014",
    "Attention drops out by a number of the config, which turning off dropout leaves.",
    method="dpo",
    earliest="step",
    source="LLaMA-Factory#10779, unsloth#1557, transformers#27315",
)


@P014.planted(dpo_full, told="DPO012", at="model")
def attention_drops_out(world: World) -> None:
    copy_model(world, config=lambda config: config.update(attention_dropout=0.1))


P015 = Fault(
    "P015",
    "The reference is computed in another type than the policy.",
    method="dpo",
    earliest="model",
    source="eric-mitchell/direct-preference-optimization#34",
)


@P015.planted(dpo_full, told="DPO010", at="model")
def reference_in_bfloat16(world: World) -> None:
    def damage(at: Any) -> Any:
        import torch

        at.trainer.ref_model.to(torch.bfloat16)
        return at

    world.after(AtModel, damage)


P018 = Fault(
    "P018",
    "A setting does not reach the loss.",
    method="dpo",
    earliest="recipe",
    source="trl#4171, trl#5079, trl#1705",
)


@P018.planted(dpo_full, told="TRAIN041", at="model", note="No recipe can bring a trainer.")
def the_trainer_keeps_its_default(world: World) -> None:
    def damage(at: Any) -> Any:
        at.trainer.args.f_divergence_type = "reverse_kl"
        at.trainer.f_divergence_type = "reverse_kl"
        return at

    world.recipe["training"]["f_divergence_type"] = "js_divergence"
    world.after(AtModel, damage)


def _shift_in_trl(run: PlainRun) -> PlainRun:
    run.trainer.train_dataset = run.trainer.train_dataset.map(
        lambda row: {"ref_chosen_logps": row["ref_chosen_logps"] + 5.0}
    )
    return run


P019 = Fault(
    "P019",
    "Log-probabilities of the reference that were computed beforehand are those of another model.",
    method="dpo",
    earliest="step",
    source="trl#2431, trl#1961, trl#6443, trl#6434, trl#6348, trl#6403",
)


@P019.planted(dpo_full, told="DPO010", at="model")
def precomputed_values_are_off(world: World) -> None:
    def damage(at: Any) -> Any:
        return _shift_in_trl(at)

    world.recipe["training"]["precompute_ref_log_probs"] = True
    world.after(AtModel, damage)


P021 = Fault(
    "P021",
    "The learning rate is that of supervised training.",
    method="dpo",
    earliest="recipe",
    source="trl#1236, the alignment handbook",
)


@P021.planted(dpo_full, told="TRAIN001", at="recipe")
def a_rate_of_a_tenth(world: World) -> None:
    world.recipe["training"]["learning_rate"] = 0.1


P023 = Fault(
    "P023",
    "One side of the pairs is empty.",
    method="dpo",
    earliest="data",
    source="trainsight, trl#2093",
)


@P023.planted(dpo_full, reward_full, told="DATA006", at="data")
def rejected_answers_are_empty(world: World) -> None:
    for row in world.rows:
        row["rejected"] = ""


X002 = Fault(
    "X002",
    "Beta is negative: the policy is pushed towards the rejected answers, and the log looks healthy.",
    method="dpo",
    earliest="recipe",
    source="no public report",
)


@X002.planted(dpo_full, told="DPO001", at="recipe")
def a_negative_beta(world: World) -> None:
    world.recipe["training"]["beta"] = -0.1


X003 = Fault(
    "X003",
    "Label smoothing is set, and the loss does not know it.",
    method="dpo",
    earliest="recipe",
    source="documentation of DPOConfig",
)


@X003.planted(dpo_full, told="DPO004", at="recipe")
def smoothing_of_another_loss(world: World) -> None:
    world.recipe["training"]["label_smoothing"] = 0.4


X004 = Fault(
    "X004",
    "Pairs without a prompt column are the same on both sides, so that their last character becomes the answer.",
    method="dpo",
    earliest="data",
    source="no public report",
)


@X004.planted(dpo_full, reward_full, told="DATA040", at="data")
def equal_texts_without_a_prompt(world: World) -> None:
    world.rows = [{"chosen": row["prompt"] + row["chosen"]} for row in world.rows]
    for row in world.rows:
        row["rejected"] = row["chosen"]


W001 = Fault(
    "W001",
    "The reward model has several scores.",
    method="reward",
    earliest="model",
    source="trl#5066, trl#5087, ms-swift#3926, unsloth#1730",
)


@W001.planted(reward_full, told="RM001", at="data")
def two_labels(world: World) -> None:
    world.recipe["training"]["model_init_kwargs"] = {"num_labels": 2}


W004 = Fault(
    "W004",
    "The padding token ends rows, so that they are scored before their end.",
    method="reward",
    earliest="model",
    source="transformers#35352, YangRui2015/Generalizable-Reward-Model#1",
)


@W004.planted(
    reward_full,
    told="RM003",
    at="model",
    note="ftrun takes another padding token where the tokenizer has one to spare.",
)
def padding_ends_the_rows(world: World) -> None:
    def damage(at: Any) -> Any:
        at.tokenizer.pad_token = at.tokenizer.eos_token
        at.trainer.data_collator.pad_token_id = at.tokenizer.eos_token_id
        at.model.config.pad_token_id = at.tokenizer.eos_token_id
        return at

    world.after(AtModel, damage)


W005 = Fault(
    "W005",
    "A reward model goes on from one whose head has another name, and begins with a new one.",
    method="reward",
    earliest="model",
    source="ms-swift#9239, trl#1379, trl#5058, trl#5077, trl#5295, LLaMA-Factory#4379",
)


@W005.planted(reward_full, told="MODEL008", at="model")
def the_head_is_called_otherwise(world: World) -> None:
    from safetensors.torch import load_file, save_file

    folder = make_scorer(world.folder / "scorer")
    weights = load_file(folder / "model.safetensors")
    weights["v_head.weight"] = weights.pop("score.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    world.recipe["model"]["path"] = str(folder)


W009 = Fault(
    "W009",
    "The score is read at the last column of a batch, which is padding for most rows.",
    method="reward",
    earliest="step",
    source="trl#550, transformers#35352, trl#3307",
)


@W009.planted(reward_full, told="RM005", at="model", note="No recipe can bring a model that does so.")
def the_last_column_is_scored(world: World) -> None:
    score_depends_on_batch.the_last_column_is_scored(world)
