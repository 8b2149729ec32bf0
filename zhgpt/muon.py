"""Muon for the matrices of the layers and AdamW for all else, as one optimizer of Trainer's."""

from collections.abc import Iterable
from typing import Any

import torch
from transformers import GPT2LMHeadModel, Trainer, TrainingArguments

from zhgpt.recipe import ClmRecipe, MuonSection


class MuonAndAdamW(torch.optim.Optimizer):
    """Both optimizers over one state: Trainer, schedules and checkpoints see a single one.

    The AdamW's groups come first, because the rate that is logged is the first group's.
    """

    def __init__(self, adamw: torch.optim.Optimizer, muon: torch.optim.Muon):
        self.parts = (adamw, muon)
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """What this one has loaded, or another has set in its groups, is what its parts have."""
        adamw, muon = self.parts
        first = len(adamw.param_groups)
        adamw.param_groups, muon.param_groups = self.param_groups[:first], self.param_groups[first:]
        adamw.state = muon.state = self.state

    @torch.no_grad()
    def step(self, closure=None):
        """As any optimizer's."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Of state_dict(), which has the state of both."""
        super().load_state_dict(state_dict)
        self._share()


class _Factory:
    """What Trainer calls with the model to get the optimizer."""

    def __call__(
        self, model: GPT2LMHeadModel, args: TrainingArguments, section: MuonSection
    ) -> MuonAndAdamW:
        adamw, kwargs = Trainer.get_optimizer_cls_and_kwargs(args, model)
        matrices, decayed, others = _kinds(model.named_parameters())
        groups = [
            {"params": decayed, "weight_decay": args.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        muon = torch.optim.Muon(
            matrices,
            lr=section.matrix_learning_rate,
            weight_decay=args.weight_decay,
            momentum=section.momentum,
            # 0.2 sqrt(the longer side): an update as large as AdamW's, and the same for a matrix as
            # for its transpose, which GPT-2's layers hold (Liu et al. 2025, Moonlight, equation 4).
            adjust_lr_fn="match_rms_adamw",
        )
        return MuonAndAdamW(adamw(groups, **kwargs), muon)


def _kinds(parameters: Iterable[tuple[str, torch.nn.Parameter]]) -> tuple[list, list, list]:
    """Matrices of the layers; embeddings, which are decayed as well; biases and norms."""
    kinds: tuple[list, list, list] = [], [], []
    for name, parameter in parameters:
        matrix, layer = parameter.ndim == 2, name.startswith("transformer.h.")
        kinds[0 if matrix and layer else 1 if matrix else 2].append(parameter)
    return kinds


def chosen(pins: ClmRecipe, args: TrainingArguments) -> tuple[type, dict[str, Any]] | None:
    """For Trainer's optimizer_cls_and_kwargs; None where the recipe has no Muon."""
    if pins.muon.matrix_learning_rate is None:
        return None
    return _Factory, {"args": args, "section": pins.muon}
