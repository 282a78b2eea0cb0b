"""The built-in model `tiny`: a small Llama, built on this machine from a config and a seed.

It knows nothing before it is trained. It is an ordinary model folder, so that recipes, tests and examples run
everywhere, without a download, through the same code as any other model.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ftrun.schemas.errors import ModelError

SEED = 0

# 0.7 million parameters, so that a step on a batch of short chats takes about a tenth of a second on two
# cores. More layers, a width of 192, tied embeddings or a start with smaller weights all learn the task of
# `recipes/sft.yaml` later.
CONFIG = {
    "vocab_size": 1024,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "attention_dropout": 0.0,
    "initializer_range": 0.05,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 3,
}

TOKENIZER_FILES = ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json")
MODEL_FILES = ("config.json", "generation_config.json", "model.safetensors")


def locate() -> Path:
    """Return the folder of `tiny`, and build it first if this machine has none for the installed packages.

    The folder is `ftrun/tiny-DIGEST` under `$XDG_CACHE_HOME` (`~/.cache` when that is unset or relative), or
    under the temporary folder of this user when the cache cannot be written. Processes that build it at the
    same time end with the same folder.

    Raises:
        ModelError: neither place can be written.
    """
    name = f"tiny-{_digest()}"
    places = (_cache(), _temporary())
    for place in places:
        if _is_whole(place / name):
            return place / name
    refusals = []
    for place in places:
        try:
            return _install(place / name)
        except OSError as error:
            refusals.append(f"{place} ({error.strerror or error})")
    raise ModelError(
        f"The model `tiny` cannot be written to {' or '.join(refusals)}. "
        "Set XDG_CACHE_HOME to a folder that can be written."
    )


def build(folder: Path) -> None:
    """Write `tiny` into `folder`, which is made if it is absent, with its tokenizer.

    Two builds with the same packages are equal byte for byte, and torch's random state is as it was before.
    """
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    # Only the CPU's generator is set: `torch.manual_seed` would also set those of the accelerators.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(SEED)
        model = AutoModelForCausalLM.from_config(LlamaConfig(**CONFIG), dtype=torch.float32)
    model.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copyfile(_tokenizer_folder() / name, folder / name)


def _install(target: Path) -> Path:
    """Build beside `target` and rename into place: what stands there is always whole."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{target.name}-", dir=target.parent) as scratch:
        built = Path(scratch) / "built"
        build(built)
        if target.exists() and not _is_whole(target):
            target.rename(Path(scratch) / "damaged")  # a cleaner of old files took some of it
        try:
            built.rename(target)
        except OSError:
            if not _is_whole(target):  # otherwise another process was faster, with the same bytes
                raise
    return target


def _is_whole(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (*MODEL_FILES, *TOKENIZER_FILES))


def _cache() -> Path:
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (chosen if chosen.is_absolute() else Path.home() / ".cache") / "ftrun"


def _temporary() -> Path:
    """Return this user's folder in the temporary one, or a new one if another user has taken its place."""
    user = os.getuid() if hasattr(os, "getuid") else None
    folder = Path(tempfile.gettempdir()) / f"ftrun-{user}"
    if user is not None and folder.exists() and folder.stat().st_uid != user:
        return Path(tempfile.mkdtemp(prefix="ftrun-"))
    return folder


def _digest() -> str:
    """Return 16 hexadecimal digits of everything that the bytes of the folder depend on."""
    facts: dict[str, Any] = {
        "config": CONFIG,
        "seed": SEED,
        "packages": {package: version(package) for package in ("torch", "transformers")},
        "tokenizer": {
            name: hashlib.sha256((_tokenizer_folder() / name).read_bytes()).hexdigest()
            for name in TOKENIZER_FILES
        },
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _tokenizer_folder() -> Path:
    return Path(__file__).with_name("tiny_tokenizer")
