"""FSDP: each process keeps its share of weights and optimizer; results and files stay the same."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from accelerate import DistributedType, PartialState
from accelerate.utils import FullyShardedDataParallelPlugin, extract_model_from_parallel
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import GPT2LMHeadModel

from zhgpt import peers


class Sharded:
    """A mixin for Trainer: `fsdp` (FSDP2) that reads and writes whole tensors.

    Overridden of Trainer, beside public methods: `_get_grad_norm`, `_load_from_checkpoint`,
    `_load_best_model`, `_load_optimizer_and_scheduler`.
    """

    def create_accelerator_and_postprocess(self) -> None:
        """As Trainer's, also on a CPU, where accelerate 1.15 takes no notice of its FSDP plugin.

        The plugin keeps 32 bits: with bf16 accelerate's would add up gradients in 16.
        """
        super().create_accelerator_and_postprocess()
        if self.args.fsdp_plugin_args is not None:
            state = self.accelerator.state
            # The latter is where the former looks again, whenever accelerate asks for it anew.
            state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
            state.fsdp_plugin = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
            self.is_fsdp_enabled = True

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True):
        """Accelerate leaves a sharded model without the autocast that it gives any other."""
        if self.is_fsdp_enabled:
            return self.accelerator.autocast()
        return super().autocast_smart_context_manager(cache_enabled)

    def _get_grad_norm(self, *args, **kwargs) -> torch.Tensor:
        norm = super()._get_grad_norm(*args, **kwargs)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def states(self) -> dict[str, dict[str, Any]]:
        """File name to whole tensors of a checkpoint; all processes call it together.

        Where the model is sharded the tensors are in main memory, of the first process alone.
        """
        return {
            "optimizer.pt": gathered(self.optimizer.state_dict()),
            "model.safetensors": gathered(self.untied(_uncompiled(self.model).state_dict())),
        }

    def untied(self, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Each tensor once: gathered, those that share their values are no longer one."""
        return {k: v for k, v in weights.items() if k not in self.model.all_tied_weights_keys}

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        if self.is_fsdp_enabled:
            load(self.model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled:
            load(self.model, Path(self.state.best_model_checkpoint))
        else:
            super()._load_best_model()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not (self.is_fsdp_enabled and checkpoint):
            return super()._load_optimizer_and_scheduler(checkpoint)
        data = {"weights_only": True, "mmap": True, "map_location": "cpu"}
        found = torch.load(Path(checkpoint, "optimizer.pt"), **data)
        self.optimizer.load_state_dict(_shared_out(found, self.optimizer.param_groups))
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint, "scheduler.pt"), **data))
        return None


def _uncompiled(model: torch.nn.Module) -> torch.nn.Module:
    """Whose tensors have the names that they have in files."""
    return extract_model_from_parallel(model, keep_torch_compile=False)


def gathered(state: Any) -> Any:
    """Nested dictionaries, lists and tuples with whole tensors in the place of shares of them.

    All processes call it together; only the first gets tensors for its shares, the others None.
    """
    if isinstance(state, DTensor):
        whole = state.full_tensor()
        return whole.cpu() if peers.is_first() else None
    if isinstance(state, dict):
        return {key: gathered(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(map(gathered, state))
    return state


def load(model: torch.nn.Module, folder: Path) -> None:
    """Gives a sharded model the weights in `folder`; each process reads its shares."""
    with torch.no_grad(), safetensors.safe_open(folder / "model.safetensors", "pt") as file:
        for name, parameter in _uncompiled(model).named_parameters():
            parameter.copy_(_share(file.get_tensor(name), parameter))


def _share(whole: torch.Tensor, like: DTensor) -> DTensor:
    return distribute_tensor(
        whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None
    )


def _shared_out(state: Mapping[str, Any], groups: list[dict[str, Any]]) -> dict[str, Any]:
    """An optimizer's state, in which what has a parameter's shape is shared out as it is."""
    parameters = [parameter for group in groups for parameter in group["params"]]

    def shared(number: int, value: Any) -> Any:
        like = parameters[number]
        return _share(value, like) if getattr(value, "shape", None) == like.shape else value

    shares = {
        number: {key: shared(number, value) for key, value in kept.items()}
        for number, kept in state["state"].items()
    }
    return {**state, "state": shares}


def own(tensor: torch.Tensor) -> torch.Tensor:
    """This process's share of a tensor; all of one that is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(model: GPT2LMHeadModel) -> GPT2LMHeadModel | None:
    """A model with the present weights that the first process can use alone; None in the others.

    All processes call it together. What is not sharded is given back as it is.
    """
    if not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return model
    weights = gathered(dict(_uncompiled(model).named_parameters()))
    if not peers.is_first():
        return None
    alone = GPT2LMHeadModel.from_pretrained(None, config=model.config, state_dict=weights)
    return alone.to(model.device)
