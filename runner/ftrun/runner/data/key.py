"""The name under which tokenised rows are kept: a digest of all that their tokens come from."""

from __future__ import annotations

import hashlib
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from ftrun.checks import examples
from ftrun.checks.rows import SourceRows
from ftrun.runner.data.splits import Origins
from ftrun.runner.data.spool import SpooledExamples
from ftrun.runner.record.digests import digest_document
from ftrun.runner.weights import digest_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PACKAGES = ("jinja2", "tokenizers", "transformers", "trl")
"""What renders and tokenises."""

MODULES = ("encoding", "rendering", "tokens", "words")
"""Those of this package that say which tokens and labels a row has: kept rows are of one state of them."""


def make_key(
    origins: Origins,
    sources: tuple[SourceRows, ...],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
    truncation_mode: str | None,
) -> str | None:
    """SHA-256 over the examples in their order, those of them that are chosen, tokenizer, template, settings, and the
    code that makes tokens of them; None where a tokenizer has code of its own, or examples have no digest."""
    if not tokenizer.is_fast or not type(tokenizer).__module__.startswith("transformers."):
        return None
    spools = [source.examples for source in sources if isinstance(source.examples, SpooledExamples)]
    if len(spools) < len(sources):
        return None
    template = str(tokenizer.chat_template)
    return digest_document(
        {
            "examples": [spool.digest for spool in spools],
            "read as": [[source.format, source.loss_on, source.sides] for source in sources],
            "origins": hashlib.sha256(origins.tobytes()).hexdigest(),
            "tokenizer": tokenizer.backend_tokenizer.to_str(),
            "class": type(tokenizer).__name__,
            "special": str(tokenizer.special_tokens_map),
            "template": template,
            # Some templates write the day into every conversation.
            "day": str(date.today()) if "strftime" in template else None,
            "max_length": max_length,
            "truncation_mode": truncation_mode,
            "packages": [version(name) for name in PACKAGES],
            "code": _digest_code(),
        }
    )


def _digest_code() -> list[str]:
    files = [Path(__file__).with_name(f"{name}.py") for name in MODULES]
    return [digest_file(file) for file in (*files, Path(examples.__file__))]
