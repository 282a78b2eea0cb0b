"""Tokenizers of every kind that language models have, small ones, trained on four texts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from ftrun.runner.data.words import PATTERNS

GPT_4, QWEN_2 = PATTERNS[1], PATTERNS[2]

TEXTS = (
    "The lamp in room 12 is green, isn't it? Yes, we'll keep it.\n\nTurn it on: press the button twice.",
    "Where can I see my invoices? Open Account, then Billing. Every invoice is listed there as a PDF.",
    "Don't worry;  two  spaces, tabs\tand 3.14159 are fine. Café, naïve and ﬁnal too.\nLast line 2024.",
    "Please update the app. If the page stays empty, sign out and in again (that's all).",
)


SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]


def bpe(**settings: Any) -> tuple[Tokenizer, trainers.BpeTrainer]:
    alphabet = pre_tokenizers.ByteLevel.alphabet() if not settings.get("byte_fallback") else []
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    return Tokenizer(models.BPE(**settings)), trainer


def byte_level(trim: bool = False, prefix: bool = False) -> Tokenizer:
    backend, trainer = bpe()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    backend.post_processor = processors.ByteLevel(trim_offsets=trim)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(TEXTS, trainer)
    return backend


def split_by(pattern: str, **settings: Any) -> Tokenizer:
    backend, trainer = bpe(**settings)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(TEXTS, trainer)
    return backend


def qwen() -> Tokenizer:
    backend = split_by(QWEN_2)
    backend.normalizer = normalizers.NFC()
    return backend


def llama_3() -> Tokenizer:
    backend = split_by(GPT_4, ignore_merges=True)
    begin = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), begin])
    return backend


def starcoder() -> Tokenizer:
    backend, trainer = bpe()
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(TEXTS, trainer)
    return backend


def deepseek() -> Tokenizer:
    """Several patterns, one after the other: not known to keep spaces first."""
    backend, trainer = bpe()
    patterns = (r"\p{N}{1,3}", r"[!-/:-~]?[A-Za-z]+|[^\r\n\p{L}\p{P}]?\p{L}+|\s*[\r\n]+|\s+(?!\S)|\s+")
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(TEXTS, trainer)
    return backend


def sentencepiece(**components: Any) -> Tokenizer:
    """A BPE over characters with a byte for each that it does not know, as SentencePiece makes them."""
    taught, trainer = bpe(unk_token="<unk>", byte_fallback=True)
    taught.pre_tokenizer = pre_tokenizers.Metaspace()
    taught.train_from_iterator(TEXTS, trainer)
    model = json.loads(taught.to_str())["model"]
    further = ["▁▁", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = model["vocab"] | {token: len(model["vocab"]) + i for i, token in enumerate(further)}
    merges = [("▁", "▁"), *(tuple(pair) for pair in model["merges"])]
    bytes_known = models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    backend = Tokenizer(bytes_known)
    backend.add_special_tokens(SPECIAL)
    for name, component in components.items():
        setattr(backend, name, component)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return backend


def llama_2() -> Tokenizer:
    written = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return sentencepiece(normalizer=written)


def llama() -> Tokenizer:
    return sentencepiece(pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="first", split=False))


def gemma() -> Tokenizer:
    return sentencepiece(
        normalizer=normalizers.Replace(" ", "▁"),
        pre_tokenizer=pre_tokenizers.Split(" ", "merged_with_previous"),
    )


def unigram() -> Tokenizer:
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    return backend


def word_piece() -> Tokenizer:
    backend = Tokenizer(models.WordPiece(unk_token="<unk>"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=SPECIAL, show_progress=False)
    backend.train_from_iterator(TEXTS, trainer)
    return backend


def ends_texts() -> Tokenizer:
    backend = byte_level()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return backend


def phi_3() -> Tokenizer:
    """Special tokens that take the white space after them."""
    backend = byte_level()
    backend.add_special_tokens(
        [AddedToken(one, rstrip=True, normalized=False) for one in ("<|end|>", "</s>")]
    )
    return backend


TOKENIZERS: Mapping[str, Callable[[], Tokenizer]] = {
    "byte level": byte_level,
    "byte level, trimmed": lambda: byte_level(trim=True),
    "byte level, prefix": lambda: byte_level(trim=True, prefix=True),
    "qwen": qwen,
    "llama 3": llama_3,
    "qwen 3.5": lambda: split_by(PATTERNS[3]),
    "gpt 4o": lambda: split_by(PATTERNS[4]),
    "mistral nemo": lambda: split_by(PATTERNS[5]),
    "starcoder": starcoder,
    "phi 3": phi_3,
    "appends eos": ends_texts,
    "llama": llama,
    "gemma": gemma,
    "llama 2": llama_2,
    "deepseek": deepseek,
    "unigram": unigram,
    "word piece": word_piece,
}
BY_WORDS = tuple(TOKENIZERS)[:13]
"""Those whose words are encoded once."""


def load(kind: str) -> Any:
    """One of TOKENIZERS, or `python`: one without a Rust backend."""
    if kind == "python":
        return ByT5Tokenizer()
    return PreTrainedTokenizerFast(
        tokenizer_object=TOKENIZERS[kind](),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )


def shipped(template: str) -> str:
    """The text of a chat template that TRL ships."""
    return files("trl").joinpath(f"chat_templates/{template}.jinja").read_text(encoding="utf-8")


def load_for(template: str, kind: str = "qwen") -> Any:
    """A tokenizer with a template that TRL ships, and the special tokens that the template writes."""
    tokenizer = load(kind)
    tokenizer.chat_template = shipped(template)
    written = re.findall(r"<[|｜]?[\w▁]+[|｜]?>|\[/?\w+\]", tokenizer.chat_template)
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(set(written) - set(SPECIAL))})
    return tokenizer
