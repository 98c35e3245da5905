"""Arguments of the network that follow from the data: channels, sizes, classes, elements, properties."""

from __future__ import annotations

from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_info

from tag_lightning.datamodules.base import TableDataModule


def complete_network(model: Namespace, given: Namespace, data: TableDataModule) -> None:
    """Set the arguments of ``model.init_args.network`` that the data determine and the user did not give.

    Args:
        model: The model's configuration with all defaults; changed in place.
        given: The same without defaults.
        data: Says what networks need.
    """
    network = _network(model)
    if network is None:
        return
    own = _network(given) or Namespace()
    attribute = model.init_args.get("attribute", "label")
    changed = []
    for name, value in data.network_arguments.items():
        value = value.get(attribute) if name == "num_classes" else value
        if name not in network or name in own or value is None or _same(network[name], value):
            continue
        network[name] = value
        changed.append(f"{name} {value}")
    if changed:
        rank_zero_info(f"model.network takes from the data: {', '.join(changed)}")


def _network(model: Namespace) -> Namespace | None:
    network = (model.get("init_args") or {}).get("network")
    return network.get("init_args") if isinstance(network, Namespace) else None


def _same(one: Any, other: Any) -> bool:
    return (list(one) if isinstance(one, tuple) else one) == other
