"""Faults of ours, third round: what lies in a model's folder."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.materials import Change, copy_model, edit_json, make_model, write_template
from tests.faults.plants import Fault

from ftrun.checks.testing import World, dpo_full, ppo_full, sft_chat, sft_full
from ftrun.runner.tiny import CONFIG, TOKENIZER_FILES, locate

OURS, NO_PPO = "ours", "TRL 1.16 has no PPO"
NO_ADAPTERS = (
    "a TRL script that merges an adapter has this fault as well, and the world's files do not say it"
)
LESSONS = 40


def teach(world: World, damage: Callable[[Any], object] = lambda model: None) -> Path:
    """A copy of `tiny` that knows the world's answers by heart, damaged by a function, as the recipe's model."""

    def learn(model: Any) -> None:
        import torch
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(locate())
        texts = [row["prompt"] + row.get("completion", row.get("chosen", "")) for row in world.rows]
        rows = [tokenizer(text + tokenizer.eos_token)["input_ids"] for text in texts]
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for lesson in range(LESSONS):
            batch = ids[8 * lesson % len(ids) :][:8]
            model(input_ids=batch, labels=batch.masked_fill(batch == 0, -100)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            damage(model)

    return copy_model(world, weights=learn)


def shuffle_words(folder: Path) -> None:
    """Give the words of a tokenizer, but for single bytes, each other's numbers."""

    def shuffle(content: Any) -> None:
        words = content["model"]["vocab"]
        moved = [word for word, id in words.items() if id >= 300]
        numbers = [words[word] for word in moved]
        random.Random(0).shuffle(numbers)
        words |= dict(zip(moved, numbers, strict=True))

    edit_json(folder / "tokenizer.json", shuffle)


def adapt(world: World, change: Change | None = None, *, settings: Change | None = None) -> None:
    """Start from an adapter on a copy of `tiny`; its weights and settings changed by functions."""
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    base, folder = copy_model(world), world.folder / "adapter"
    model = AutoModelForCausalLM.from_pretrained(base)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted: Any = get_peft_model(model, lora)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.02)
    adapted.save_pretrained(folder)
    for file in TOKENIZER_FILES:
        shutil.copyfile(base / file, folder / file)
    if change is not None:
        path = folder / "adapter_model.safetensors"
        save_file(dict(change(load_file(path))), path)  # type: ignore[call-overload]
    if settings is not None:
        edit_json(folder / "adapter_config.json", settings)
    world.recipe["model"]["path"] = str(folder)


X341 = Fault("X341", "The adapter that the run starts from has no effect.", "all", "data", OURS)


@X341.planted(sft_full, told="MODEL034", at="data", trl=NO_ADAPTERS)
def its_names_fit_nothing(world: World) -> None:
    adapt(world, lambda held: {name.replace("layers", "blocks"): value for name, value in held.items()})


@X341.planted(sft_full, told="MODEL034", at="data", trl=NO_ADAPTERS)
def it_was_never_trained(world: World) -> None:
    adapt(world, lambda held: {name: value * ("lora_A" in name) for name, value in held.items()})


X342 = Fault("X342", "The scale of an adapter was changed after its training.", "all", "data", OURS)


@X342.planted(sft_full, told="MODEL034", at="data", trl=NO_ADAPTERS)
def alpha_is_a_hundred_times_larger(world: World) -> None:
    adapt(world, settings=lambda settings: settings.update(lora_alpha=1600))


X343 = Fault("X343", "Half of an adapter is missing in its file.", "all", "data", OURS)


@X343.planted(sft_full, told="MODEL034", at="data", trl=NO_ADAPTERS)
def one_layer_was_saved(world: World) -> None:
    adapt(world, lambda held: {name: value for name, value in held.items() if "layers.0" in name})


X344 = Fault("X344", "The base of an adapter was changed after the adapter was trained.", "all", "data", OURS)


@X344.planted(
    sft_full, told=(), trl=NO_ADAPTERS, note="An adapter does not say which weights it was made for."
)
def the_base_has_been_tuned_since(world: World) -> None:
    adapt(world)
    shutil.rmtree(world.folder / "model")
    adapter = world.recipe["model"]["path"]
    teach(world)
    world.recipe["model"]["path"] = adapter


X345 = Fault("X345", "The merges of a tokenizer are lost: words fall apart.", "all", "data", OURS)


@X345.planted(sft_full, sft_chat, told="MODEL036", at="data")
def there_are_no_merges(world: World) -> None:
    edit_json(copy_model(world) / "tokenizer.json", lambda content: content["model"].update(merges=[]))


X346 = Fault("X346", "A tokenizer changes text before it is read.", "all", "data", OURS)


@X346.planted(sft_full, dpo_full, told="MODEL035", at="data")
def capitals_are_lost(world: World) -> None:
    _normalise(world, {"type": "Lowercase"})


@X346.planted(sft_full, told="MODEL035", at="data")
def digits_are_zero(world: World) -> None:
    _normalise(world, {"type": "Replace", "pattern": {"Regex": "[0-9]"}, "content": "0"})


@X346.planted(sft_full, told="MODEL035", at="data")
def spaces_are_lost(world: World) -> None:
    _normalise(world, {"type": "Replace", "pattern": {"String": " "}, "content": ""})


def _normalise(world: World, normaliser: dict[str, Any]) -> None:
    edit_json(copy_model(world) / "tokenizer.json", lambda content: content.update(normalizer=normaliser))


X347 = Fault(
    "X347", "Tokenizer and weights number words otherwise, and are of one size.", "all", "model", OURS
)


@X347.planted(sft_full, dpo_full, told="MODEL038", at="model")
def words_are_in_another_order(world: World) -> None:
    shuffle_words(teach(world))


@X347.planted(sft_full, dpo_full, told="MODEL038", at="model")
def rows_of_the_head_moved_by_one(world: World) -> None:
    teach(world, lambda model: model.lm_head.weight.copy_(model.lm_head.weight.roll(1, 0)))


X348 = Fault("X348", "Saved settings of generation spoil every answer of the model.", "all", "data", OURS)


@X348.planted(sft_full, dpo_full, ppo_full, told="MODEL037", at="data")
def the_end_is_suppressed(world: World) -> None:
    _generate(world, suppress_tokens=[3])


@X348.planted(sft_full, told="MODEL037", at="data")
def answers_may_not_end(world: World) -> None:
    _generate(world, min_new_tokens=500)


@X348.planted(sft_full, told="MODEL037", at="data")
def answers_have_one_token(world: World) -> None:
    _generate(world, max_new_tokens=1)


@X348.planted(sft_full, ppo_full, told="MODEL037", at="data")
def no_word_comes_twice(world: World) -> None:
    _generate(world, repetition_penalty=5.0, no_repeat_ngram_size=1)


def _generate(world: World, **settings: Any) -> None:
    edit_json(copy_model(world) / "generation_config.json", lambda config: config.update(settings))


X349 = Fault("X349", "A number in config.json is one that no model has.", "all", "data", OURS)


@X349.planted(sft_full, dpo_full, told="MODEL039", at="data")
def places_turn_too_fast(world: World) -> None:
    rope = {"rope_type": "default", "rope_theta": 50.0}
    copy_model(world, config=lambda config: config.update(rope_theta=50.0, rope_parameters=rope))


@X349.planted(sft_full, told="MODEL039", at="data")
def norms_have_an_epsilon_of_ten(world: World) -> None:
    copy_model(world, config=lambda config: config.update(rms_norm_eps=10.0))


@X349.planted(sft_full, told="MODEL039", at="data")
def a_window_of_four_tokens(world: World) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    make_model(world, MistralForCausalLM(MistralConfig(**{**CONFIG, "sliding_window": 4})))


X350 = Fault("X350", "config.json is of another model of the same shapes.", "all", "data", OURS)
MEANT = "Each value is one that models have; nothing says which one these weights were trained with."


@X350.planted(sft_full, told=(), note=MEANT)
def places_are_eight_times_nearer(world: World) -> None:
    rope = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 8.0}
    edit_json(teach(world) / "config.json", lambda config: config.update(rope_parameters=rope))


@X350.planted(sft_full, told=(), note=MEANT)
def heads_are_half_as_many(world: World) -> None:
    def change(config: Any) -> None:
        config.pop("head_dim", None)
        config.update(num_attention_heads=4, num_key_value_heads=4)

    edit_json(teach(world) / "config.json", change)


X351 = Fault(
    "X351", "Weights stand in the wrong place, or are not those that were trained.", "all", "model", OURS
)
UNKNOWN = "The loss is under that of guessing, and what it was is not known."


@X351.planted(sft_full, told=(), note=UNKNOWN)
def two_layers_are_exchanged(world: World) -> None:
    def exchange(model: Any) -> None:
        first, second = ({n: p.clone() for n, p in one.state_dict().items()} for one in model.model.layers)
        model.model.layers[0].load_state_dict(second)
        model.model.layers[1].load_state_dict(first)

    teach(world, exchange)


@X351.planted(
    sft_full, dpo_full, told=(), note="Models are also grown by copies of layers (arXiv 2312.15166)."
)
def one_layer_is_there_twice(world: World) -> None:
    teach(world, lambda model: model.model.layers[1].load_state_dict(model.model.layers[0].state_dict()))


@X351.planted(sft_full, told=(), note=UNKNOWN)
def weights_are_rounded_to_three_levels(world: World) -> None:
    def halve(model: Any) -> None:
        for weight in model.parameters():
            if weight.ndim == 2:
                scale = weight.abs().mean()
                weight.copy_((weight / scale).round().clamp(-1, 1) * scale)

    teach(world, halve)


X352 = Fault("X352", "A layer, or the last norm, is zero.", "all", "step", OURS)


@X352.planted(sft_full, dpo_full, told="MODEL025", at="model")
def one_layer_is_zero(world: World) -> None:
    copy_model(world, weights=lambda model: [p.data.zero_() for p in model.model.layers[1].parameters()])


@X352.planted(sft_full, told="TRAIN018", at="step")
def the_last_norm_is_zero(world: World) -> None:
    copy_model(world, weights=lambda model: model.model.norm.weight.data.zero_())


X353 = Fault("X353", "The chat template is that of another family.", "all", "data", OURS)


@X353.planted(sft_chat, told=("DATA003", "DATA016"), at="data")
def conversations_are_written_as_llama_has_them(world: World) -> None:
    head = "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
    body = "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|eot_id|>' }}{% endgeneration %}"
    rest = "{% else %}{{ m.content + '<|eot_id|>' }}{% endif %}"
    write_template(world, "{% for m in messages %}" + head + body + rest + "{% endfor %}")
