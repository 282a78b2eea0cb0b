"""The bytes of tensors that are alive, counted at every operation.

Counted is what torch's allocator is asked for; scratch memory inside a kernel, blocks that the allocator keeps, and a
CUDA context are not.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FORWARD = "forward"
"""The part that a step begins with."""


class Part(NamedTuple):
    """The most bytes that are alive in a part of a step, and how many of them are gradients of parameters."""

    bytes: int
    gradients: int


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch is untyped here
    """Counts the bytes of all storages that are alive, from those of `held` on; a storage counts once.

    With `fake` there are no values that would tell what the code asks for: a number that it reads is 1, and a mask
    selects all that it covers, or, where its shape is `scored[0]`, as many as `scored[1]`.
    """

    def __init__(
        self,
        held: Iterable[torch.Tensor],
        *,
        gradients: Iterable[torch.Tensor] = (),
        fake: bool = False,
        scored: tuple[tuple[int, ...], int] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch is untyped here
        self.alive = 0
        self.gradients = count_bytes(gradients)
        self._all_there = self.gradients > 0
        self.part = FORWARD
        self.parts: dict[str, Part] = {}
        self.starts: dict[str, int] = {}
        self.fake = fake
        self.scored = scored
        self._known: dict[int, weakref.ref[Any]] = {}
        for tensor in held:
            self.include(tensor)

    def enter(self, part: str) -> None:
        """Begin a part of the step."""
        self.part = part
        self.starts.setdefault(part, self.alive)
        self._look()

    def accumulated(self, parameter: torch.Tensor) -> None:
        """Count a gradient that was not there before."""
        if not self._all_there:
            self.gradients += parameter.numel() * parameter.element_size()

    def _look(self) -> None:
        self.parts[self.part] = max(self.parts.get(self.part, Part(0, 0)), Part(self.alive, self.gradients))

    def include(self, tensor: torch.Tensor) -> None:
        """Count the storage of a tensor until it goes, unless it is counted already."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return

        def forget(_: weakref.ref[Any]) -> None:
            self.alive -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, forget)
        self.alive += size
        self._look()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = self._answer(func, args) if self.fake else None
        out = func(*args, **(kwargs or {})) if answer is None else answer
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.include(leaf)
        return out

    def _answer(self, func: Any, args: Any) -> Any:
        """What an operation would give that depends on values; None for the others."""
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1.0 if args[0].is_floating_point() else 1
        if func is torch.ops.aten.index.Tensor:
            mask = args[1][0]
            if mask is not None and mask.dtype is torch.bool:
                known = self.scored is not None and tuple(mask.shape) == self.scored[0]
                count = self.scored[1] if known and self.scored is not None else mask.numel()
                return args[0].new_empty((count, *args[0].shape[mask.ndim :]))
        return None


def count_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the storages of tensors, each once."""
    storages = {one.untyped_storage()._cdata: one.untyped_storage().nbytes() for one in tensors}
    return sum(storages.values())
