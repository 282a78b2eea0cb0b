"""Each stage of the climb is built by the code that trains."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from ftrun.checks.stages import AtData, AtEnvironment, AtModel, AtRecipe, Process, widen
from ftrun.runner.data.files import read_head
from ftrun.runner.ranks import count_ranks, gather
from ftrun.schemas.load import RecipeFile
from ftrun.schemas.resolve import resolve


def build_stage(
    stage: type[AtRecipe],
    file: RecipeFile,
    at: AtRecipe | None,
    folder: Callable[[RecipeFile], Path] | None,
    recorded: Iterable[Mapping[str, Any]] | None,
) -> AtRecipe:
    """A stage, built upon the one before it by the code that trains. `folder` returns where a trainer writes;
    `recorded` are the choices of the run that is repeated or gone on with. Raises what building raises."""
    if stage is AtRecipe:
        return AtRecipe(resolve(file.recipe), file, _look_at_sources(file))
    assert at is not None
    if stage is AtEnvironment:
        from ftrun.runner.determinism import settle_determinism
        from ftrun.runner.environment import inspect_machine

        machine = inspect_machine(Path(at.recipe.output))
        if machine.torch_error is None:
            settle_determinism(
                at.recipe.deterministic,
                on_gpu=bool(machine.devices),
                compiled=at.recipe.training["torch_compile"],
            )
        return cast(AtRecipe, widen(at, AtEnvironment, machine=machine))
    method = importlib.import_module(f"ftrun.runner.methods.{at.recipe.method}")
    if stage is AtData:
        from ftrun.runner.tuning.choices import tune

        with _garbage_left():
            built = method.build_data(at)
            tuned = tune(built, recorded)
        if count_ranks() == 1:
            return tuned
        # A device may have less room in one process than in another.
        return tune(built, [asdict(one) for one in gather(tuned.choices, "the choices")[0]])
    if stage is AtModel:
        assert folder is not None, "a trainer needs a folder to write to"
        return _with_processes(method.build_model(at, folder(file)))
    from ftrun.runner.step import take_step

    return take_step(cast(AtModel, at))


def _with_processes(at: AtModel) -> AtModel:
    """With what each process of the run is about to train, where there are several."""
    if count_ranks() == 1:
        return at
    from ftrun.runner.data.digest import digest_rows
    from ftrun.runner.record.digests import digest_trainable

    own = Process(digest_trainable(at.model), digest_rows(at.train))
    return replace(at, processes=tuple(gather(own, "the model as it was built")))


@contextmanager
def _garbage_left() -> Iterator[None]:
    """Pause Python's search for cycles of garbage, which would look at every row again and again.

    Rows hold no cycles, and with 50,000 of them the search takes a fifth of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _look_at_sources(file: RecipeFile) -> tuple[Any, ...]:
    data = file.recipe.data
    sources = [(f"data.train.{i}", one) for i, one in enumerate(data.train)]
    if isinstance(data.eval, list):
        sources += [(f"data.eval.{i}", one) for i, one in enumerate(data.eval)]
    return tuple(read_head(source, key, file.folder) for key, source in sources)
