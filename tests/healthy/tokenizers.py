"""Tokenizers of every kind, trained on the rows' own words, and tokenizers that packages bring.

A folder named by FTRUN_TOKENIZERS adds real ones: each folder in it that holds a tokenizer.json, as a model
has it. They are not part of this repository.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.healthy.models import begin_with, load_tiny_tokenizer, save_with_tokenizer
from tests.healthy.worlds import (
    LORA,
    Healthy,
    chats,
    healthy,
    pairs_of_text,
    questions,
    save_base,
    sft,
    variants,
)

from ftrun.checks.testing import World

SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]
WORDS = 1200


def _wrap(backend: Any, **tokens: str | None) -> Any:
    from transformers import PreTrainedTokenizerFast

    named = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", **tokens}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **named)


def sentencepiece_bpe(texts: list[str]) -> Any:
    """As Llama 2's: spaces are letters, unknown letters fall back to bytes, and every text gets its beginning."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    lines = pre_tokenizers.Split("\n", behavior="isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([lines, pre_tokenizers.Metaspace(prepend_scheme="first")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    pieces = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=WORDS, special_tokens=pieces, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    tokenizer = _wrap(backend)
    begin_with(tokenizer, "<s>")
    return tokenizer


def unigram(texts: list[str]) -> Any:
    """As Gemma's and T5's kin: pieces with a likelihood each."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=WORDS, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    return _wrap(backend)


def byte_level(texts: list[str]) -> Any:
    """As GPT-2's: one token ends texts, begins them and would pad them; nothing is added."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    end = "<|endoftext|>"
    return _wrap(backend, unk_token=end, bos_token=end, eos_token=end, pad_token=None)


def padded_left(texts: list[str]) -> Any:
    """Declared for generation, as instruct models often are."""
    tokenizer = load_tiny_tokenizer()
    tokenizer.padding_side = "left"
    return tokenizer


def without_padding(texts: list[str]) -> Any:
    """As Llama 3's: no token is declared for padding, so the end pads."""
    tokenizer = load_tiny_tokenizer()
    tokenizer.pad_token = None
    return tokenizer


def without_beginning(texts: list[str]) -> Any:
    """As Qwen's: texts have no token for their beginning."""
    tokenizer = load_tiny_tokenizer()
    tokenizer.bos_token = None
    return tokenizer


def large_vocabulary(texts: list[str]) -> Any:
    """Tens of thousands of tokens of which rows use few."""
    tokenizer = load_tiny_tokenizer()
    tokenizer.add_tokens([f"word{number}" for number in range(40_000)])
    return tokenizer


KINDS: Mapping[str, Callable[[list[str]], Any]] = {
    make.__name__: make
    for make in (
        sentencepiece_bpe,
        unigram,
        byte_level,
        padded_left,
        without_padding,
        without_beginning,
        large_vocabulary,
    )
}


def tokenized(folder: Path, seed: int, kind: str) -> World:
    """Plain answers through a tokenizer of this kind, which was trained on other rows."""
    world = sft(folder, seed, pairs_of_text(seed))
    texts = [f"{asked}\n{answer}" for asked, answer in questions(seed + 1000, 200)]
    path = save_with_tokenizer(folder / kind, seed, world.rows, KINDS[kind](texts))
    world.recipe["model"]["path"] = str(path)
    return world


kinds: tuple[Healthy, ...] = variants(tokenized, [(name, name) for name in KINDS])


@healthy
def embedding_beyond_the_tokenizer(folder: Path, seed: int) -> World:
    """The embedding is padded to a round number of rows, as Qwen's is."""
    world = sft(folder, seed, chats(seed), lora=LORA)
    tokenizer = load_tiny_tokenizer()
    path = save_with_tokenizer(
        folder / "padded", seed, world.rows, tokenizer, vocab_size=len(tokenizer) + 256
    )
    world.recipe["model"]["path"] = str(path)
    return world


@healthy
def several_stop_tokens(folder: Path, seed: int) -> World:
    """Generation stops at the end of a turn and at the end of a text."""
    world = sft(folder, seed, chats(seed))
    path = Path(save_base(world, seed)) / "generation_config.json"
    path.write_text('{"eos_token_id": [3, 1]}', encoding="utf-8")
    return world


@healthy
def end_named_by_the_recipe(folder: Path, seed: int) -> World:
    """A base model whose tokenizer ends texts otherwise than the template ends turns."""
    world = sft(folder, seed, chats(seed), eos_token="<|im_end|>")
    tokenizer = load_tiny_tokenizer()
    tokenizer.eos_token = "<|begin|>"
    path = save_with_tokenizer(folder / "base", seed, world.rows, tokenizer)
    world.recipe["model"]["path"] = str(path)
    return world


def real(folder: Path, seed: int, source: Path) -> World:
    """Conversations, or plain answers where it has no chat template, through a real tokenizer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source)
    plain = tokenizer.chat_template is None
    world = sft(folder, seed, pairs_of_text(seed) if plain else chats(seed, turns=2), max_length=2048)
    if not plain:
        world.recipe["data"]["loss_on"] = "completion"
    # Narrow: real vocabularies have up to a quarter of a million rows.
    world.recipe["model"]["path"] = str(
        save_with_tokenizer(folder / "real", seed, world.rows, tokenizer, hidden_size=32)
    )
    return world


def _real_tokenizers() -> Iterator[tuple[str, Path]]:
    folder = os.environ.get("FTRUN_TOKENIZERS")
    if folder:
        yield from sorted((one.parent.name, one.parent) for one in Path(folder).glob("*/tokenizer.json"))


reals: tuple[Healthy, ...] = variants(real, _real_tokenizers())
