"""A model's parameter names, the same whatever wraps it or parts of it: as `state_dict()` of the bare model has them.

So a checkpoint fits, and a run continues, with and without compilation, data parallelism and activation checkpointing.
"""

from __future__ import annotations

from torch import nn

WRAPPERS: dict[str, tuple[str, ...]] = {
    "_orig_mod": (),  # torch.compile
    "_checkpoint_wrapped_module": (),  # torch's checkpoint_wrapper
    "_fsdp_wrapped_module": (),  # FullyShardedDataParallel
    "_forward_module": (),  # Lightning Fabric
    "_original_module": (),
    "_module": ("GradSampleModule",),  # Opacus
    "module": ("DistributedDataParallel", "DataParallel", "AveragedModel", "DeepSpeedEngine", "GradSampleModule"),
}
"""The attribute in which a wrapper holds the model. Where others use such a name too: the classes that are wrappers."""


def parameter_names(model: nn.Module) -> dict[int, str]:
    """The first name of each parameter, by its id. Shared ones have one name, and no two have the same."""
    without_wrappers: dict[str, str] = {}
    modules: dict[str, nn.Module] = {}
    names: dict[int, str] = {}
    used: set[str] = set()
    for path, module in model.named_modules():  # parents come before their children
        modules[path] = module
        parent, _, attribute = path.rpartition(".")
        prefix = without_wrappers.get(parent, "")
        if path and not _is_wrapped(modules[parent], attribute):
            prefix += f"{attribute}."
        without_wrappers[path] = prefix
        for leaf, parameter in module.named_parameters(recurse=False):
            if id(parameter) in names:
                continue
            name = prefix + leaf
            if name in used:  # a module beside a wrapped one may have its name
                name = f"{path}.{leaf}"
            names[id(parameter)] = name
            used.add(name)
    return names


def _is_wrapped(owner: nn.Module, attribute: str) -> bool:
    """Whether `attribute` is where the wrapper `owner` holds what it wraps."""
    classes = WRAPPERS.get(attribute)
    return classes is not None and (not classes or any(kind.__name__ in classes for kind in type(owner).__mro__))
