"""Limits that a model's configuration states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def longest_input(config: PretrainedConfig) -> int | None:
    """Tokens that the model has positions for; None where its configuration states no limit.

    Scaled rotary embeddings reach as far as their factor says.
    """
    text = config.get_text_config()
    stated = getattr(text, "max_position_embeddings", None)
    if not isinstance(stated, int) or stated <= 0:
        return None
    reaches = [
        int((scaling.get("original_max_position_embeddings") or stated) * scaling["factor"])
        for scaling in _scalings(getattr(text, "rope_parameters", None))
        if isinstance(scaling.get("factor"), int | float)
    ]
    return max([stated, *reaches])


def _scalings(parameters: Any) -> Iterator[Mapping[str, Any]]:
    """The rotary parameters: of the model, or of each of its kinds of layer."""
    if isinstance(parameters, Mapping):
        yield parameters
        yield from (inner for inner in parameters.values() if isinstance(inner, Mapping))


def vocabulary_size(config: PretrainedConfig) -> int:
    """Rows of the embedding matrix that the configuration states."""
    size: int = config.get_text_config().vocab_size
    return size
