"""The chat templates that TRL ships, each with a tokenizer that knows its marks and ends as its model does."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from tests.healthy.models import save_with_tokenizer, template_tokenizer
from tests.healthy.worlds import Healthy, chats, sft, variants

from ftrun.checks.testing import World


class Ends(NamedTuple):
    """The special tokens of a model family: of its tokenizer, and those at which its generation stops besides."""

    eos: str
    bos: str | None = None
    pad: str | None = None
    stops: tuple[str, ...] = ()
    system: bool = True
    """Whether the template takes a system message."""

    begins: bool = True
    """Whether the tokenizer puts `bos` before every text."""


QWEN = Ends("<|im_end|>", None, "<|endoftext|>", ("<|endoftext|>",))
LLAMA = Ends(
    "<|eot_id|>", "<|begin_of_text|>", "<|finetune_right_pad_id|>", ("<|end_of_text|>", "<|eom_id|>")
)
DEEPSEEK = Ends("<｜end▁of▁sentence｜>", "<｜begin▁of▁sentence｜>", "<｜▁pad▁｜>")
PHI = Ends("<|endoftext|>", "<s>", "<|endoftext|>", ("<|end|>",), begins=False)
NEMOTRON = Ends("<|im_end|>", None, "<unk>", ("</s>",))
LFM = Ends("<|im_end|>", "<|startoftext|>", "<|pad|>")
COHERE = Ends("<|END_OF_TURN_TOKEN|>", "<BOS_TOKEN>", "<PAD>")
FAMILIES = {
    "cohere": COHERE,
    "deepseek_r1_distill": DEEPSEEK,
    "deepseekv3": DEEPSEEK,
    "gemma": Ends("<eos>", "<bos>", "<pad>", ("<end_of_turn>",), system=False),
    "gemma3": Ends("<eos>", "<bos>", "<pad>", ("<end_of_turn>",)),
    "gptoss": Ends("<|return|>", "<|startoftext|>", "<|endoftext|>", ("<|call|>",), begins=False),
    "glm4moe": Ends("<|endoftext|>", None, "<|pad|>", ("<|user|>", "<|observation|>")),
    "lfm2": LFM,
    "llama3": LLAMA,
    "llama3_1": LLAMA,
    "llama3_2": LLAMA,
    "nemotron_3_nano": NEMOTRON,
    "phi3": PHI,
    "phi3_5": PHI,
    "qwen2_5": QWEN,
    "qwen3": QWEN,
    "qwen3_5_nothink": QWEN,
    "qwen3_5_think": QWEN,
    "qwen3_6": QWEN,
    "qwen3_8": QWEN,
    "qwen3_instruct_2507": QWEN,
}


def template(folder: Path, seed: int, name: str) -> World:
    """Conversations of two turns, every turn of the assistant trained."""
    ends = FAMILIES[name]
    world = sft(folder, seed, chats(seed, 24, system="You know the house." if ends.system else None, turns=2))
    use_template(world, seed, name)
    world.recipe["training"]["max_length"] = 1024
    return world


def answered(folder: Path, seed: int, name: str) -> World:
    """The same template as it ships, the last answer trained."""
    world = template(folder, seed, name)
    world.recipe["data"]["loss_on"] = "completion"
    return world


def use_template(world: World, seed: int, name: str) -> None:
    """Train a model whose tokenizer has this template of TRL's."""
    ends = FAMILIES[name]
    text = files("trl").joinpath("chat_templates", f"{name}.jinja").read_text(encoding="utf-8")
    tokenizer = template_tokenizer(text, ends.eos, ends.bos, ends.pad, begins=ends.begins)
    tokenizer.add_tokens(list(ends.stops), special_tokens=True)
    path = save_with_tokenizer(world.folder / name, seed, world.rows, tokenizer)
    stops = [tokenizer.convert_tokens_to_ids(token) for token in (ends.eos, *ends.stops)]
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}), encoding="utf-8")
    world.recipe["model"]["path"] = str(path)


turns: tuple[Healthy, ...] = variants(template, [(name, name) for name in FAMILIES])
# GLM's answers end where the next turn begins: as shipped, a last answer has no end, and DATA003 tells it.
answers: tuple[Healthy, ...] = variants(answered, [(name, name) for name in FAMILIES if name != "glm4moe"])
