"""Settings of generation that are saved with the model keep its answers from ending, or cut them off.

Symptom: training goes well, and the model that is asked afterwards never stops, stops after a word, or cannot repeat
what it needs to.
Cause: generation_config.json of the base holds settings of one demo or benchmark: stop tokens that are suppressed, a
least or largest number of new tokens, a penalty on repetition.
Fix: remove the setting from generation_config.json of the base.
Prevention: keep in that file what holds for every use; give the rest where the model is asked.
Source: transformers' GenerationConfig, which is copied into the trained model's folder. Compared with the answers of
the rows: told are a least length above most answers and a largest one under most, in tokens. A repetition penalty is
told from 2 (1.0 to 1.3 is usual; CTRL, arXiv 1909.05858, found 1.2), and n-grams that may not repeat under 3 tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtData

if TYPE_CHECKING:
    from ftrun.checks.testing import World

STRONG = 2.0
SHORT_NGRAM = 3
FILE = "generation_config.json"


@check(
    "MODEL037",
    title="saved settings of generation let answers be what they are",
    severity="warning",
    methods=("sft", "dpo", "ppo"),
)
def generation_settings_unfit(at: AtData) -> Iterator[Finding]:
    from transformers import GenerationConfig

    try:
        config: Any = GenerationConfig.from_pretrained(at.model_folder, revision=at.recipe.model.revision)
    except OSError as error:
        raise NotApplicable(f"the model has no {FILE}") from error
    for name, why in (*_never_ending(at, config), *_unlike_answers(at, config), *_against_repeating(config)):
        yield Finding(
            message=f"{FILE} of the model sets {name} to {getattr(config, name)!r}: {why}.",
            fix=f"Remove {name} from {FILE} in the model's folder.",
            where=at.where("model.path"),
        )


def _never_ending(at: AtData, config: Any) -> Iterator[tuple[str, str]]:
    for name in ("suppress_tokens", "bad_words_ids"):
        written = getattr(config, name, None) or ()
        # Words are lists of tokens; a list of one bans that token everywhere.
        single = (one[0] if isinstance(one, list) and len(one) == 1 else one for one in written)
        banned = {one for one in single if isinstance(one, int)}
        if at.stop_ids and at.stop_ids <= banned:
            yield name, "none of the tokens that end an answer may be written"


def _unlike_answers(at: AtData, config: Any) -> Iterator[tuple[str, str]]:
    """Bounds that half of the answers are beyond. Texts that are trained whole are no answers."""
    import numpy as np

    if at.recipe.method == "ppo" or not len(at.train) or any(s.loss_on == "all" for s in at.sources):
        return
    usual = int(np.median(at.train.trained))
    least, most = getattr(config, "min_new_tokens", None), getattr(config, "max_new_tokens", None)
    if least is not None and least > usual:
        yield (
            "min_new_tokens",
            f"the answers of the rows have {usual} tokens at the median, and may not end there",
        )
    if most is not None and most < usual:
        yield (
            "max_new_tokens",
            f"the answers of the rows have {usual} tokens at the median, and would be cut off",
        )


def _against_repeating(config: Any) -> Iterator[tuple[str, str]]:
    penalty, size = (getattr(config, name, None) for name in ("repetition_penalty", "no_repeat_ngram_size"))
    if penalty is not None and penalty >= STRONG:
        yield "repetition_penalty", "the model can hardly write a word twice"
    if size is not None and 0 < size < SHORT_NGRAM:
        yield "no_repeat_ngram_size", "words that every text repeats may not come again"


@generation_settings_unfit.fault
def the_end_is_suppressed(world: World) -> None:
    _write(world, suppress_tokens=[3])


@generation_settings_unfit.fault
def answers_have_at_least_500_tokens(world: World) -> None:
    _write(world, min_new_tokens=500)


@generation_settings_unfit.fault
def answers_have_two_tokens(world: World) -> None:
    _write(world, max_new_tokens=2)


@generation_settings_unfit.fault
def nothing_may_be_repeated(world: World) -> None:
    _write(world, repetition_penalty=5.0, no_repeat_ngram_size=1)


def _write(world: World, **settings: Any) -> None:
    """Write a generation_config.json where the model is taken to be."""
    from dataclasses import replace

    def damage(at: AtData) -> AtData:
        from transformers import GenerationConfig

        folder = world.folder / "settings"
        GenerationConfig(**settings).save_pretrained(folder)
        return replace(at, model_folder=str(folder))

    world.after(AtData, damage)
