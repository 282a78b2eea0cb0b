"""Small models and tokenizers of many kinds, written as ordinary model folders."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ftrun.runner.tiny import CONFIG, TOKENIZER_FILES, locate

Rows = Sequence[Mapping[str, Any]]
NARROW = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
LESSONS, BATCH, WINDOW = 10, 8, 32

MARK = re.compile(r"<[|｜]?[A-Za-z0-9_/▁]+[|｜]?>|\[/?[A-Z_]{3,}\]")
"""What looks like a special token in the text of a chat template."""


def save_tiny(folder: Path, seed: int, rows: Rows, **changes: Any) -> Path:
    """A model like the built-in `tiny`, drawn by the seed, its config changed as given; see `save_model`."""
    from transformers import LlamaConfig

    return save_model(folder, LlamaConfig(**{**CONFIG, **NARROW, **changes}), seed, rows)


def save_model(folder: Path, config: Any, seed: int, rows: Rows, tokenizer: Any = None) -> Path:
    """A model of this config, drawn by the seed, with a tokenizer: that of `tiny` unless given.

    It is taught a little of the words of `rows`, as a base model knows the words of any text: weights that know
    nothing are a fault, which TRAIN016 tells.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        _teach(model, tokenizer or load_tiny_tokenizer(), rows)
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
        return folder
    for name in TOKENIZER_FILES:
        shutil.copyfile(locate() / name, folder / name)
    return folder


def _teach(model: Any, tokenizer: Any, rows: Rows) -> None:
    """A few steps on windows of the rows, one after the other: enough for the frequencies of words."""
    import torch

    texts = [_write(row, tokenizer) + tokenizer.eos_token for row in rows]
    ids = [id for text in texts for id in tokenizer(text)["input_ids"]]
    ids = (ids * (1 + BATCH * WINDOW // len(ids)))[: LESSONS * BATCH * WINDOW]
    windows = torch.tensor(ids[: len(ids) // WINDOW * WINDOW]).view(-1, WINDOW)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for lesson in range(LESSONS):
        batch = windows[torch.arange(lesson * BATCH, (lesson + 1) * BATCH) % len(windows)]
        model(input_ids=batch, labels=batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def _write(row: Mapping[str, Any], tokenizer: Any) -> str:
    """The text of a row: a conversation as the tokenizer renders it, of any other row all its words."""
    messages = row.get("messages")
    if tokenizer.chat_template is None or not messages or isinstance(messages[0]["content"], list):
        return _words(row)
    tools = row.get("tools")
    tools = json.loads(tools) if isinstance(tools, str) else tools
    text: str = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
    return text


def _words(value: Any) -> str:
    """All texts in a row, whatever its format."""
    if isinstance(value, str):
        return value
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return " ".join(filter(None, map(_words, parts)))


def load_tiny_tokenizer() -> Any:
    """The tokenizer of `tiny`, to be changed."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(locate())


def save_with_tokenizer(folder: Path, seed: int, rows: Rows, tokenizer: Any, **changes: Any) -> Path:
    """A small Llama whose embedding fits `tokenizer`, with its special tokens in the config."""
    from transformers import LlamaConfig

    ids = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("pad", "bos", "eos")}
    config = LlamaConfig(**{**CONFIG, **NARROW, **ids, "vocab_size": len(tokenizer), **changes})
    return save_model(folder, config, seed, rows, tokenizer)


def template_tokenizer(
    template: str, eos: str, bos: str | None, pad: str | None = None, *, begins: bool = True
) -> Any:
    """The tokenizer of `tiny` with a chat template, and each mark of the template as a token of its own."""
    tokenizer = load_tiny_tokenizer()
    marks = sorted({*MARK.findall(template), eos, *filter(None, (bos, pad))})
    tokenizer.add_tokens(marks, special_tokens=True)
    tokenizer.eos_token = eos
    tokenizer.bos_token = bos
    if pad is not None:
        tokenizer.pad_token = pad
    tokenizer.chat_template = template
    if bos is not None and begins:
        begin_with(tokenizer, bos)
    return tokenizer


def begin_with(tokenizer: Any, bos: str) -> None:
    """Let the tokenizer put `bos` before every text, as Llama's does."""
    from tokenizers.processors import TemplateProcessing

    token = (bos, tokenizer.convert_tokens_to_ids(bos))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[token]
    )
