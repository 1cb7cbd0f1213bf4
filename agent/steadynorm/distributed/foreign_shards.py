"""Refuses sharding that is not DTensor's, with which each rank would measure and scale a piece of a tensor by itself.

And optimizers that reduce gradients inside of their step, where the agent cannot see that by comparing the ranks.

Known by what others' code shows of itself, so nothing of it has to be installed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.optim import Optimizer

from steadynorm.stabilizer.sharding import is_sharded

_MODULES = {
    "FullyShardedDataParallel": "each rank holds a piece of a flattened tensor",  # torch's (FSDP1) and fairscale's
    "ShardedDataParallel": "each gradient is reduced on one rank only",  # fairscale's
}
_PIECES = "each rank steps a piece of a flat buffer"
_IN_STEP = "gradients are reduced inside of step()"
_OPTIMIZERS = {
    ("deepspeed", "DeepSpeedZeroOptimizer"): _PIECES,
    ("deepspeed", "DeepSpeedZeroOptimizer_Stage3"): _PIECES,
    ("deepspeed", "BF16_Optimizer"): _PIECES,
    ("megatron", "DistributedOptimizer"): _PIECES,
    ("apex", "DistributedFusedAdam"): _PIECES,
    ("apex", "DistributedFusedLAMB"): _PIECES,
    ("colossalai", "LowLevelZeroOptimizer"): _PIECES,
    ("colossalai", "GeminiOptimizer"): _PIECES,
    ("fairscale", "OSS"): "each gradient may be reduced on one rank only",
    ("torch_xla", "ZeroRedundancyOptimizer"): _IN_STEP,
}
_PACKAGES = {"horovod": _IN_STEP, "byteps": _IN_STEP}
"""Whose optimizers are made as subclasses of the user's, under its name."""


def check_shards(model: torch.nn.Module, optimizers: object) -> None:
    """Raises ValueError where parameters are sharded by other means than DTensor.

    optimizers: as given to attach(): one, several, or a wrapper.
    """
    found = next(_found(model, optimizers), None)
    if found is None:
        return
    what, why = found
    if why is _IN_STEP:
        raise ValueError(
            f"gradients must be averaged over the ranks before optimizer.step(): got {what}, with which {why}. Each "
            "rank would scale its own, and the direction of their average would change. Use DistributedDataParallel, "
            "or steadynorm.GradientStabilizer without an agent, after the reduction."
        )
    raise ValueError(
        f"parameters must be whole tensors or DTensors: got {what}, with which {why}. Each rank would scale a piece by "
        "itself, and the direction of the update would change. Shard with torch.distributed.fsdp.fully_shard (FSDP2), "
        "or use parallelize_module or DistributedDataParallel."
    )


def _found(model: torch.nn.Module, optimizers: object) -> Iterator[tuple[str, str]]:
    judged = False
    for name, module in model.named_modules():
        where = f" ({name})" if name else ""
        for kind in type(module).__mro__:
            judged = judged or kind.__name__ in _MODULES
            if kind.__name__ in _MODULES and not _is_whole(module):
                yield f"{kind.__module__}.{kind.__name__}{where}", _MODULES[kind.__name__]
    # attach() may be given a module inside of FSDP, which marks it for torch.compile. FSDP2's parameters are DTensors.
    marked = any(getattr(module, "_is_fsdp_managed_module", False) for module in model.modules())
    if marked and not judged and _ranks() > 1 and not any(map(is_sharded, model.parameters())):
        yield "a module inside of FullyShardedDataParallel", _MODULES["FullyShardedDataParallel"]
    given = list(_optimizers(optimizers))
    for optimizer in given:
        for kind in type(optimizer).__mro__:
            package = kind.__module__.partition(".")[0]
            why = _PACKAGES.get(package) or _OPTIMIZERS.get((package, kind.__name__))
            if why is not None:
                yield f"{kind.__module__}.{kind.__name__}", why
    for name, parameter in model.named_parameters():
        yield from _of_parameter(name, parameter)
    for optimizer in given:
        for group in optimizer.param_groups if isinstance(optimizer, Optimizer) else ():
            for parameter in group["params"]:
                yield from _of_parameter("in the optimizer", parameter)


def _of_parameter(name: str, parameter: Tensor) -> Iterator[tuple[str, str]]:
    kinds = {kind.__name__ for kind in type(parameter).__mro__}
    if "FlatParameter" in kinds or getattr(parameter, "_is_flat_param", False):
        yield f"a FlatParameter ({name})", "several tensors are flattened into one, of which each rank holds a piece"
    if hasattr(parameter, "ds_id"):
        yield f"a parameter of DeepSpeed's ZeRO-3 ({name} has a ds_id)", "each rank holds a piece between its uses"
    if getattr(parameter, "main_grad", None) is not None:
        yield f"a parameter of Megatron ({name} has a main_grad)", "gradients are in a flat buffer, and .grad is empty"
    if getattr(parameter, "tensor_model_parallel", False) and _ranks() > 1:
        yield f"a parameter of Megatron ({name} is tensor_model_parallel)", "each rank holds a part of the tensor"


def _is_whole(module: torch.nn.Module) -> bool:
    """FSDP1 over one rank, or told not to shard: it then only averages gradients, as DistributedDataParallel does."""
    return getattr(getattr(module, "sharding_strategy", None), "name", "") == "NO_SHARD"


def _optimizers(given: object) -> Iterator[object]:
    """Those given, and the ones inside of them."""
    if isinstance(given, Iterable) and not isinstance(given, Optimizer | str | bytes | Iterator):  # which is used later
        for each in given:
            yield from _optimizers(each)
        return
    while given is not None:
        yield given
        given = getattr(given, "optimizer", None)


def _ranks() -> int:
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
