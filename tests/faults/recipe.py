"""Faults of settings, of the machine, and of going on."""

from __future__ import annotations

from typing import Any

import yaml
from tests.faults.materials import hold_out
from tests.faults.plants import Fault, Unplanted

from ftrun.checks.stages import AtModel
from ftrun.checks.step import evaluation_is_random
from ftrun.checks.testing import World, dpo_full, ppo_full, reward_full, sft_full

R001 = Fault(
    "R001",
    "The learning rate is text.",
    method="all",
    earliest="recipe",
    source="LLaMA-Factory#4014, LLaMA-Factory#4149, trl#1450, h2o-llmstudio#699, DomainLab#202",
)


@R001.planted(sft_full, told="REC011", at="recipe", note="`2e-5` without quotes is read as the number.")
def the_rate_is_quoted(world: World) -> None:
    world.recipe["training"]["learning_rate"] = "5.0e-5 "


R003 = Fault(
    "R003",
    "A key is unknown, or is written twice.",
    method="all",
    earliest="recipe",
    source="trl#1565, trl#6023",
)


@R003.planted(sft_full, dpo_full, told="REC008", at="recipe")
def the_rate_is_misspelt(world: World) -> None:
    world.recipe["training"]["learning_rte"] = 1e-4


@R003.planted(sft_full, told="REC003", at="recipe")
def the_rate_is_there_twice(world: World) -> None:
    rate = "  learning_rate: 5.0e-05\n"
    world.recipe_text = yaml.safe_dump(world.recipe).replace(rate, f"{rate}  learning_rate: 1.0e-04\n")


R004 = Fault(
    "R004",
    "The learning rate is far too high.",
    method="all",
    earliest="recipe",
    source="trl#1236, axolotl#770",
)


@R004.planted(sft_full, reward_full, told="TRAIN001", at="recipe")
def a_rate_of_one(world: World) -> None:
    world.recipe["training"]["learning_rate"] = 1.0


R005 = Fault(
    "R005",
    "The learning rate is zero or far too low.",
    method="all",
    earliest="recipe",
    source="torchtune#2254, axolotl's guide to stability",
)


@R005.planted(sft_full, dpo_full, reward_full, told="TRAIN001", at="recipe")
def a_rate_of_zero(world: World) -> None:
    world.recipe["training"]["learning_rate"] = 0.0


R006 = Fault(
    "R006",
    "The warmup is longer than the run.",
    method="all",
    earliest="recipe",
    source="axolotl#3254, axolotl#1566",
)


@R006.planted(
    sft_full, dpo_full, told="TRAIN004", at="data", note="How many steps there are follows from the rows."
)
def warmup_of_another_run(world: World) -> None:
    world.recipe["training"]["warmup_steps"] = 1000


R008 = Fault(
    "R008",
    "Gradients are not clipped.",
    method="all",
    earliest="recipe",
    source="DeepSpeed#1801, accelerate#3465, accelerate#2941, LLaMA-Factory#10366",
)


@R008.planted(sft_full, ppo_full, told="TRAIN002", at="recipe")
def clipping_is_off(world: World) -> None:
    world.recipe["training"]["max_grad_norm"] = 0


R010 = Fault(
    "R010",
    "Rows are held out, and evaluation never comes to them.",
    method="all",
    earliest="recipe",
    source="axolotl#633, axolotl#2298, axolotl#403, axolotl#797",
)


@R010.planted(sft_full, told="TRAIN006", at="recipe")
def evaluation_is_not_asked_for(world: World) -> None:
    world.recipe["data"]["eval"] = {"fraction": 0.25}


@R010.planted(sft_full, told="TRAIN010", at="data")
def evaluation_comes_after_the_end(world: World) -> None:
    hold_out(world, eval_strategy="steps", eval_steps=500)


R012 = Fault(
    "R012",
    "A long run leaves no checkpoint to return to.",
    method="all",
    earliest="recipe",
    source="axolotl#1202, axolotl#3233, peft-doctor",
)


@R012.planted(sft_full, told="TRAIN007", at="recipe", note="Of a short run it is an info.")
def nothing_is_saved_for_hours(world: World) -> None:
    world.recipe["training"] |= {"save_strategy": "no", "max_steps": 20000}


R013 = Fault(
    "R013",
    "The noise on embeddings is absurd, or stays on in evaluation.",
    method="sft",
    earliest="recipe",
    source="trl#1841",
)


@R013.planted(sft_full, told="TRAIN009", at="recipe")
def an_alpha_of_five_hundred(world: World) -> None:
    world.recipe["training"]["neftune_noise_alpha"] = 500


@R013.planted(sft_full, told="TRAIN031", at="step")
def noise_stays_on(world: World) -> None:
    evaluation_is_random.noise_is_left_on_the_embeddings(world)


R014 = Fault(
    "R014",
    "Settings of the optimizer keep it from learning.",
    method="all",
    earliest="step",
    source="axolotl's guide to stability, peft#3503",
)


@R014.planted(sft_full, dpo_full, ppo_full, told="TRAIN008", at="recipe")
def an_epsilon_of_one(world: World) -> None:
    world.recipe["training"]["adam_epsilon"] = 1.0


@R014.planted(sft_full, told="TRAIN008", at="recipe")
def a_decay_of_a_hundred(world: World) -> None:
    world.recipe["training"]["weight_decay"] = 100.0


R015 = Fault(
    "R015",
    "Accumulated gradients are the mean of means.",
    method="sft",
    earliest="step",
    source="transformers#34191, transformers#35203, unsloth-zoo#1023, axolotl#1100, LLaMA-Factory#5747",
)


@R015.planted(sft_full, told="TRAIN033", at="step")
def each_batch_is_averaged_alone(world: World) -> None:
    def damage(at: Any) -> Any:
        compute = at.trainer.compute_loss

        def average(
            model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            return compute(model, inputs, return_outputs, None)

        at.trainer.compute_loss = average
        return at

    world.recipe["training"]["gradient_accumulation_steps"] = 2
    for number, row in enumerate(world.rows):
        row["completion"] *= 1 + number % 3
    world.after(AtModel, damage)


R016 = Unplanted(
    Fault(
        "R016",
        "The loss is averaged over devices and not over their tokens.",
        method="sft",
        earliest="step",
        source="trl#3538, torchtune#2172",
    ),
    reason="not applicable here",
    why="needs several processes",
)
R017 = Unplanted(
    Fault(
        "R017",
        "A resumed run silently keeps the learning rate of its checkpoint, whatever the recipe says now.",
        method="all",
        earliest="recipe",
        source="pytorch/examples#816, detectron2#2312, transformers#27749, lightly-train#301",
    ),
    reason="prevented",
    why="`--resume` refuses a recipe that has changed",
    shown_by="tests/runner/test_run.py::test_a_run_is_not_resumed_with_other_settings",
)
R020 = Unplanted(
    Fault(
        "R020",
        "The seed does not cover what is drawn while the model is built.",
        method="all",
        earliest="step",
        source="accelerate#3459, LLaMA-Factory#10211",
    ),
    reason="prevented",
    why="the seed is set before model and adapters are made",
    shown_by="tests/runner/test_step.py::test_training_is_the_same_after_a_step",
)
R025 = Unplanted(
    Fault(
        "R025",
        "Memory runs out at the longest batch, hours later.",
        method="all",
        earliest="step",
        source="axolotl's guide to stability, axolotl#1742",
    ),
    reason="not applicable here",
    why="needs a GPU: TRAIN035 measures the peak of the longest rows there, and has not run on one",
)

E001 = Fault(
    "E001",
    "The recipe needs a GPU that torch does not reach.",
    method="all",
    earliest="environment",
    source="Soup v0.73.3 notes",
)


@E001.planted(sft_full, told="ENV002", at="environment")
def quantised_without_a_gpu(world: World) -> None:
    world.recipe["model"] |= {"quantization": "4bit", "lora": {"r": 8, "target_modules": "all-linear"}}


E002 = Fault(
    "E002",
    "Both half precisions are asked for, or one that the device does not have.",
    method="all",
    earliest="environment",
    source="axolotl#587, axolotl#766, axolotl#1140, trl#3598",
)


@E002.planted(sft_full, dpo_full, told="ENV004", at="environment")
def both_halves(world: World) -> None:
    world.recipe["training"] |= {"fp16": True, "bf16": True}


G009 = Fault(
    "G009",
    "The worst checkpoint is taken for the best.",
    method="all",
    earliest="recipe",
    source="axolotl#1358",
)


@G009.planted(sft_full, told="TRAIN036", at="recipe")
def the_lowest_accuracy_wins(world: World) -> None:
    hold_out(
        world,
        load_best_model_at_end=True,
        metric_for_best_model="mean_token_accuracy",
        greater_is_better=False,
    )


@G009.planted(sft_full, dpo_full, told="TRAIN036", at="recipe")
def the_highest_loss_wins(world: World) -> None:
    hold_out(world, load_best_model_at_end=True, metric_for_best_model="eval_loss", greater_is_better=True)


X006 = Fault(
    "X006",
    "The run has no steps to take.",
    method="all",
    earliest="recipe",
    source="no public report",
)


@X006.planted(sft_full, dpo_full, reward_full, ppo_full, told="TRAIN005", at="recipe")
def zero_epochs(world: World) -> None:
    world.recipe["training"]["num_train_epochs"] = 0


@X006.planted(sft_full, told="TRAIN005", at="recipe")
def zero_steps(world: World) -> None:
    world.recipe["training"]["max_steps"] = 0
