"""Networks whose weights FSDP spreads over processes, seen as the whole networks that they were."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

_FSDP = "torch.distributed.fsdp"
# What `fully_shard` adds to the attributes of a module.
_ATTRIBUTES = ("_fsdp_", "_is_fsdp_", "__composable_api_state_key_")


def is_sharded(network: nn.Module) -> bool:
    """True if FSDP spreads the weights over processes, all of which must then call the network equally often."""
    fsdp = _fsdp()
    kinds = () if fsdp is None else (fsdp.FSDPModule, fsdp.FullyShardedDataParallel)
    return any(isinstance(module, kinds) for module in network.modules())


def is_flattened(module: nn.Module) -> bool:
    """True if the older ``FullyShardedDataParallel`` holds a module's weights, which then have no shapes."""
    fsdp = _fsdp()
    return fsdp is not None and isinstance(module, fsdp.FullyShardedDataParallel)


def unsharded_class(value: Any) -> type:
    """The class of an object; of a module or parameter that ``fully_shard`` changed, the one that it had before."""
    fsdp = _fsdp()
    if fsdp is not None and isinstance(value, fsdp.FSDPModule):
        return type(value).__bases__[1]
    if hasattr(value, "full_tensor"):
        return nn.Parameter if isinstance(value, nn.Parameter) else Tensor
    return type(value)


def sharding_attributes(module: nn.Module) -> frozenset[str]:
    """Names of the attributes that ``fully_shard`` added to a module."""
    return frozenset(name for name in vars(module) if name.startswith(_ATTRIBUTES))


def shards(hook: Callable[..., Any]) -> bool:
    """True if a hook of a module is one that ``fully_shard`` added."""
    return type(getattr(hook, "__self__", None)).__module__.startswith(_FSDP)


def whole_tensor(value: Tensor) -> Tensor:
    """The tensor itself; gathered from all processes, which must all ask for it, if each has a part."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def _fsdp() -> Any:
    """The module if it is loaded, which takes a second; without it nothing is sharded."""
    return sys.modules.get(_FSDP)
