"""Tokens see those that come after them.

Symptom: the loss falls to nearly nothing within a few steps, and the model that is asked afterwards babbles.
Cause: attention without its causal mask: a patched or custom attention, a mask of the wrong shape, a model whose
config turned it into an encoder.
Fix: set `model.attention: eager` or `sdpa`, and remove what changes the model's attention or its mask.
Prevention: be suspicious of a loss far below that of the base.
Source: a later token is exchanged, and what the model says of earlier places must not change: 0.0 was measured for
Llama, a hundredth of the largest logit is told. Rounding in half precision is far below.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.engine import NotApplicable
from ftrun.checks.finding import Finding
from ftrun.checks.reference import without_dropout
from ftrun.checks.stages import AtModel

if TYPE_CHECKING:
    import torch

    from ftrun.checks.testing import World

LOOKED_AT = 32
"""Tokens of a row."""

PART = 1e-2


@check("MODEL026", title="no token sees those after it", methods=("sft", "dpo", "ppo"))
def future_is_seen(at: AtModel) -> Iterator[Finding]:
    import torch

    long = [i for i in range(min(len(at.train), 64)) if at.train.lengths[i] > 2]
    if not long:
        raise NotApplicable("no row has three tokens")
    ids = torch.tensor(at.train[long[0]].ids[:LOOKED_AT].tolist(), device=at.trainer.args.device)
    others = ids.repeat(2, 1)
    others[1, -1] = ids[ids != ids[-1]][0] if (ids != ids[-1]).any() else (ids[-1] + 1) % 2
    with without_dropout(at.model), torch.no_grad(), at.trainer.accelerator.autocast():
        # Each alone: in one batch, a mixture of experts may choose otherwise.
        one, again, other = (_ask(at.model, row) for row in (others[0], *others))
    if not torch.equal(one, again):
        raise NotApplicable("two evaluations of the same row differ")
    change, size = float((one - other)[:-1].abs().max()), float(one.abs().max())
    if change > PART * size:
        yield Finding(
            message=f"Another last token changes what the model says of the {len(ids) - 1} places before it, by up to "
            f"{change:.3g} of a logit: tokens see those that come after them.",
            fix="Set model.attention to sdpa or eager, and remove what changes the model's attention or its mask.",
            where=at.where("model.attention"),
        )


def _ask(model: Any, ids: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=ids[None], use_cache=False).logits[0].float()
    return logits


@future_is_seen.fault
def attention_has_no_mask(world: World) -> None:
    def damage(at: AtModel) -> AtModel:
        import torch

        def open_up(module: Any, args: Any, kwargs: Any) -> Any:
            states = args[0] if args else kwargs["hidden_states"]
            rows, length = states.shape[:2]
            kwargs["attention_mask"] = torch.zeros(rows, 1, length, length)
            return args, kwargs

        for layer in at.model.model.layers:
            layer.self_attn.register_forward_pre_hook(open_up, with_kwargs=True)
        return at

    world.after(AtModel, damage)
