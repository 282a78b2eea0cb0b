"""Faults of ours, third round: trainers, optimizers and models that are not what they were built as."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.faults.materials import change_batch, remake_optimizer
from tests.faults.plants import Fault

from ftrun.checks.stages import AtModel
from ftrun.checks.testing import World, dpo_full, dpo_lora, reward_full, sft_full, sft_lora

OURS = "ours"


def damage_model(world: World, change: Callable[[Any], object]) -> None:
    """Let a function change the stage of the model, in place."""

    def damage(at: Any) -> Any:
        change(at)
        return at

    world.after(AtModel, damage)


def _set_groups(world: World, **settings: Any) -> None:
    def change(at: Any) -> None:
        for group in (at.trainer.optimizer or at.trainer.create_optimizer()).param_groups:
            group.update(settings)

    damage_model(world, change)


X361 = Fault("X361", "The optimizer climbs.", "all", "model", OURS)


@X361.planted(sft_full, dpo_full, reward_full, told="TRAIN044", at="model")
def each_step_makes_the_loss_higher(world: World) -> None:
    _set_groups(world, maximize=True)


X362 = Fault(
    "X362", "The optimizer has a rate for the head that the recipe does not know.", "all", "model", OURS
)


@X362.planted(sft_full, dpo_full, told="TRAIN044", at="model")
def the_head_learns_a_thousand_times_faster(world: World) -> None:
    def change(at: Any) -> None:
        import torch

        named = list(at.model.named_parameters())
        head: dict[str, Any] = {"params": [p for name, p in named if "lm_head" in name], "lr": 5e-2}
        rest: dict[str, Any] = {"params": [p for name, p in named if "lm_head" not in name]}
        at.trainer.optimizer = torch.optim.AdamW([rest, head], lr=5e-5, weight_decay=0.0)
        at.trainer.lr_scheduler = None
        at.trainer.create_scheduler(16)

    damage_model(world, change)


X363 = Fault("X363", "The optimizer has a decay or betas of its own.", "all", "model", OURS)


@X363.planted(sft_full, told="TRAIN044", at="model")
def norms_decay(world: World) -> None:
    _set_groups(world, weight_decay=100.0)


@X363.planted(sft_full, told="TRAIN044", at="model")
def the_scale_of_gradients_is_forgotten(world: World) -> None:
    _set_groups(world, betas=(0.9, 0.0))


X364 = Fault("X364", "The backward pass of a layer is wrong.", "all", "model", OURS)


@X364.planted(sft_full, dpo_full, told="TRAIN045", at="model")
def gradients_of_a_layer_are_reversed(world: World) -> None:
    def change(at: Any) -> None:
        for weight in at.model.model.layers[1].parameters():
            weight.register_hook(lambda gradient: -gradient)

    damage_model(world, change)


@X364.planted(sft_full, told="TRAIN045", at="model")
def a_layer_halves_on_the_way_forward_alone(world: World) -> None:
    def halve(module: Any, inputs: Any, output: Any) -> Any:
        return output - (0.5 * output).detach()

    damage_model(world, lambda at: at.model.model.layers[0].mlp.register_forward_hook(halve))


X365 = Fault("X365", "Half of each gradient is lost.", "all", "step", OURS)


@X365.planted(
    sft_full, told=(), note="What remains is the gradient of the rest, as where rows are frozen on purpose."
)
def the_first_rows_learn_nothing(world: World) -> None:
    def mask(gradient: Any) -> Any:
        gradient = gradient.clone()
        gradient[: len(gradient) // 2] = 0
        return gradient

    damage_model(world, lambda at: [p.register_hook(mask) for p in at.model.parameters()])


X366 = Fault("X366", "A batch holds one row many times.", "all", "step", OURS)


@X366.planted(sft_full, told="DATA028", at="step")
def the_first_row_is_the_batch(world: World) -> None:
    def change(at: Any) -> None:
        collate = at.trainer.data_collator
        at.trainer.data_collator = lambda rows: collate([rows[0]] * len(rows))

    damage_model(world, change)


@X366.planted(dpo_full, reward_full, told="DATA028", at="step")
def the_first_pair_is_the_batch(world: World) -> None:
    the_first_row_is_the_batch.plant(world)


X367 = Fault("X367", "The sampler draws a few rows only.", "all", "training", OURS)


@X367.planted(sft_full, dpo_full, told=(), note="The guard batches_unlike_data counts rows while it trains.")
def four_rows_are_drawn(world: World) -> None:
    places = [0, 1, 2, 3] * 8
    damage_model(world, lambda at: setattr(at.trainer, "_get_train_sampler", lambda *_: places))


X368 = Fault("X368", "Gradients of old steps are added to new ones.", "all", "step", OURS)


@X368.planted(sft_full, dpo_full, told=(), note="One step shows nothing of it.")
def nothing_clears_them(world: World) -> None:
    def change(at: Any) -> None:
        (at.trainer.optimizer or at.trainer.create_optimizer()).zero_grad = lambda *args, **kwargs: None
        at.model.zero_grad = lambda *args, **kwargs: None

    damage_model(world, change)


X369 = Fault("X369", "The loss is that of the first row of a batch.", "all", "step", OURS)


@X369.planted(sft_full, told="TRAIN032", at="step")
def other_rows_are_left_out(world: World) -> None:
    def change(at: Any) -> None:
        compute = at.trainer.compute_loss

        def of_first(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            return compute(model, {name: value[:1] for name, value in inputs.items()}, *args, **kwargs)

        at.trainer.compute_loss = of_first

    damage_model(world, change)


X370 = Fault("X370", "The loss is a thousandth of what it should be.", "all", "step", OURS)


@X370.planted(dpo_full, told="DPO014", at="step")
def preferences_count_for_little(world: World) -> None:
    _scale_loss(world)


@X370.planted(sft_full, told=(), note="A model that knows its rows has such a loss.")
def words_count_for_little(world: World) -> None:
    _scale_loss(world)


def _scale_loss(world: World) -> None:
    def change(at: Any) -> None:
        compute = at.trainer.compute_loss
        at.trainer.compute_loss = lambda *args, **kwargs: 1e-3 * compute(*args, **kwargs)

    damage_model(world, change)


X371 = Fault("X371", "A patch of the model is not saved with it.", "all", "step", OURS)


@X371.planted(sft_full, dpo_full, told="MODEL023", at="step")
def logits_are_scaled(world: World) -> None:
    damage_model(
        world, lambda at: at.model.lm_head.register_forward_hook(lambda _, inputs, output: 0.01 * output)
    )


@X371.planted(sft_full, sft_lora, told="MODEL023", at="step")
def the_first_weights_are_saved(world: World) -> None:
    def change(at: Any) -> None:
        before = {name: value.clone() for name, value in at.model.state_dict().items()}
        save = at.model.save_pretrained
        at.model.save_pretrained = lambda folder, **kwargs: save(folder, **{**kwargs, "state_dict": before})

    damage_model(world, change)


X372 = Fault("X372", "The embedding is noisy, in evaluation too.", "sft", "step", OURS)


@X372.planted(sft_full, told="TRAIN031", at="step")
def noise_stays_on(world: World) -> None:
    def add_noise(module: Any, inputs: Any, output: Any) -> Any:
        return output + 0.05 * output.new_empty(output.shape).normal_()

    damage_model(world, lambda at: at.model.get_input_embeddings().register_forward_hook(add_noise))


X373 = Fault("X373", "The rate jumps far above the recipe's in the middle of the run.", "all", "model", OURS)


@X373.planted(sft_full, dpo_full, told="TRAIN038", at="model")
def one_step_is_fifty_times_larger(world: World) -> None:
    def change(at: Any) -> None:
        from torch.optim.lr_scheduler import LambdaLR

        optimizer = at.trainer.optimizer or at.trainer.create_optimizer()
        at.trainer.lr_scheduler = LambdaLR(optimizer, lambda step: 50.0 if step == 8 else 1.0)

    damage_model(world, change)


X374 = Fault("X374", "A collator moves labels, or leaves out the end.", "sft", "step", OURS)


@X374.planted(sft_full, told="DATA028", at="step")
def labels_are_moved_by_one(world: World) -> None:
    world.after(
        AtModel, lambda at: change_batch(at, lambda batch: batch | {"labels": batch["labels"].roll(-1, 1)})
    )


@X374.planted(sft_full, told="DATA028", at="step")
def the_end_is_not_learnt(world: World) -> None:
    def mask(batch: Any) -> Any:
        return batch | {"labels": batch["labels"].masked_fill(batch["labels"] == 3, -100)}

    world.after(AtModel, lambda at: change_batch(at, mask))


X375 = Fault("X375", "Everything but the head is frozen.", "all", "model", OURS)


@X375.planted(sft_full, dpo_full, told="MODEL011", at="model")
def the_trunk_is_frozen(world: World) -> None:
    def change(at: Any) -> None:
        for name, weight in at.model.named_parameters():
            weight.requires_grad_("lm_head" in name)
        remake_optimizer(at.trainer)

    damage_model(world, change)


X376 = Fault("X376", "Steps of the optimizer do nothing.", "all", "step", OURS)


@X376.planted(sft_full, told="TRAIN019", at="step")
def the_step_is_a_stub(world: World) -> None:
    def change(at: Any) -> None:
        (at.trainer.optimizer or at.trainer.create_optimizer()).step = lambda *args, **kwargs: None

    damage_model(world, change)


X377 = Fault("X377", "Two layers are one object, and train as one.", "all", "model", OURS)


@X377.planted(
    sft_full, told=(), note="Models share layers on purpose (ALBERT), and no folder loads so by mistake."
)
def the_second_layer_is_the_first(world: World) -> None:
    def change(at: Any) -> None:
        at.model.model.layers[1] = at.model.model.layers[0]
        remake_optimizer(at.trainer)

    damage_model(world, change)


X378 = Fault("X378", "Adapters are far too strong.", "all", "step", OURS)


@X378.planted(sft_lora, dpo_lora, told="MODEL010", at="model")
def alpha_is_a_thousand_times_the_rank(world: World) -> None:
    world.recipe["model"]["lora"]["lora_alpha"] = 8192
