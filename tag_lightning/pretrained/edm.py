"""Networks of EDM (Hoogeboom et al. 2022) as its repository saves them: ``generative_model*.npy``, ``args.pickle``."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tag_lightning.diffusion import Conditioning, NoiseSchedule
from tag_lightning.diffusion.conditioning import CONTEXT_SPLIT_KEY
from tag_lightning.networks import EGNNDenoiser
from tag_lightning.pretrained.pretrained_network import Pretrained, frozen
from tag_lightning.tensor_file import load_weights, reason, require_finite

_ARGUMENTS = "args.pickle"
_RANGE = 15.0  # of EDM's coordinates, which its command line does not set
# The settings that `EGNNDenoiser` implements, with the defaults of EDM's command line.
_REQUIRED: dict[str, Any] = {
    "probabilistic_model": "diffusion",
    "model": "egnn_dynamics",
    "condition_time": True,
    "attention": True,
    "tanh": True,
    "sin_embedding": False,
    "inv_sublayers": 1,
    "norm_constant": 1,
    "aggregation_method": "sum",
}


def edm_files(path: Path) -> tuple[Path, Path] | None:
    """The weights and the arguments of a model of EDM, by its output folder or its weights; None for anything else."""
    if path.is_file() and path.suffix == ".npy":
        number = path.stem.removeprefix("generative_model").removeprefix("_ema")
        named = path.with_name(f"args{number}.pickle")
        return path, named if named.is_file() else path.with_name(_ARGUMENTS)
    names = ("generative_model_ema.npy", "generative_model.npy")
    file = next((path / name for name in names if (path / name).is_file()), None)
    return None if file is None else (file, path / _ARGUMENTS)


def load_edm(weights_file: Path, arguments_file: Path) -> Pretrained:
    """Load a denoiser with its noise schedule, whose timestep 0 is EDM's z_0.

    A model that is told one property remembers its name, and that its mean and spread are still to be measured.
    Samples have one-hot elements, then the atomic number if EDM was trained with it, divided by the
    ``normalize_factors`` of its arguments: ``feature_scale`` and ``charge_scale`` of the data modules.

    Raises:
        ValueError: If the files are not of such a model, or its architecture is another.
    """
    arguments = _arguments(arguments_file)
    for name, expected in _REQUIRED.items():
        if (given := arguments.get(name, expected)) != expected:
            raise ValueError(f"{weights_file} has {name} {given}, but EGNNDenoiser is built for {expected} only")
    weights = load_weights(weights_file, "model of EDM")
    require_finite(weights, weights_file)
    context = int(arguments.get("context_node_nf", 0))
    divisor = float(arguments.get("normalization_factor", 1))
    try:
        converted, powers = _converted(weights, divisor, context)
        width, columns = converted["embedding.weight"].shape
        network = EGNNDenoiser(
            num_features=columns - 1 - context,
            num_timesteps=len(powers) - 1,
            width=width,
            num_blocks=1 + max(int(name.split(".")[1]) for name in converted if name.startswith("invariant.")),
            longest=_RANGE / divisor,
            time_offset=0,
            num_context=context,
        )
        if context:  # EDM standardises outside of the network, and does not tell it which properties are known
            converted["embedding.weight"] = F.pad(converted["embedding.weight"], (0, context))
            converted |= {"context_mean": torch.zeros(context), "context_spread": torch.ones(context)}
            _remember_property(network, arguments)
        network.load_state_dict(converted)
        schedule = NoiseSchedule(powers)
    except (KeyError, IndexError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise ValueError(
            f"{weights_file} is not a model of EDM that EGNNDenoiser can represent: {reason(error)}; check that "
            f"{arguments_file.name} belongs to it"
        ) from error
    return frozen(network, schedule, "epsilon")


def _remember_property(network: EGNNDenoiser, arguments: Mapping[str, Any]) -> None:
    """Note a single property that the network is told, by our name, and the split that EDM standardises it by."""
    names = arguments.get("conditioning") or []
    if network.num_context == 1 and len(names) == 1:
        # EDM's only names with capitals are those of ours in capitals.
        Conditioning.for_training(network, str(names[0]).lower(), dropout=0.0)
        split = "train" if arguments.get("dataset", "qm9") == "qm9" else "val"
        network.register_to_config(**{CONTEXT_SPLIT_KEY: split})


class _NamespaceUnpickler(pickle.Unpickler):
    """Makes plain values and ``argparse.Namespace``, so that nothing can be executed."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("argparse", "Namespace"):
            return argparse.Namespace
        raise pickle.UnpicklingError(f"it holds a {module}.{name}")


def _arguments(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise ValueError(
            f"{file} does not exist, and the weights of EDM beside it do not tell the architecture; copy it from "
            "EDM's output folder"
        )
    try:
        with file.open("rb") as stream:
            values = _NamespaceUnpickler(stream).load()
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(
            f"{file} holds more than EDM's arguments, or is damaged; refused ({type(error).__name__}: {reason(error)})"
        ) from error
    if not isinstance(values, argparse.Namespace):
        raise ValueError(f"{file} must hold EDM's arguments, got {type(values).__name__}; copy it again")
    return vars(values)


def _converted(weights: Mapping[str, Tensor], divisor: float, context: int) -> tuple[dict[str, Tensor], Tensor]:
    """The weights under the names of ``EGNNDenoiser``, every one used once, and ``alphas_cumprod [T + 1]``."""
    left = {name: value.double() for name, value in weights.items()}
    left.pop("buffer", None)  # tells EDM its device
    if "gamma.gamma" not in left:
        raise ValueError("its noise schedule was learned")
    powers = (-left.pop("gamma.gamma")).sigmoid()
    made: dict[str, Tensor] = {}

    def move(source: str, target: str, names: tuple[str, ...] = ("weight", "bias")) -> None:
        for name in names:
            made[f"{target}.{name}"] = left.pop(f"dynamics.egnn.{source}.{name}")

    move("embedding", "embedding")
    move("embedding_out", "readout")
    for name in ("weight", "bias"):  # the time and the context have rows of their own, which EDM cuts off
        made[f"readout.{name}"] = made[f"readout.{name}"][: -(1 + context)]
    width = len(made["embedding.bias"])

    def move_pairs(source: str, target: str) -> None:
        move(f"{source}.0", target)
        first, bias = made.pop(f"{target}.weight"), made.pop(f"{target}.bias")
        if first.shape[1] != 2 * width + 2:
            raise ValueError(f"{source}.0 has {first.shape[1]} columns, expected {2 * width + 2}")
        made[f"{target}.receiver.weight"], made[f"{target}.receiver.bias"] = first[:, :width], bias
        made[f"{target}.sender.weight"] = first[:, width : 2 * width]
        made[f"{target}.distance.weight"] = first[:, 2 * width :]
        move(f"{source}.2", f"{target}.second")

    for i in range(1 + max(int(n.split(".")[2].removeprefix("e_block_")) for n in left if ".e_block_" in n)):
        block = f"e_block_{i}"
        move_pairs(f"{block}.gcl_0.edge_mlp", f"invariant.{i}.message")
        move(f"{block}.gcl_0.att_mlp.0", f"invariant.{i}.gate")
        for k in (0, 2):
            move(f"{block}.gcl_0.node_mlp.{k}", f"invariant.{i}.node.{k}")
        made[f"invariant.{i}.node.0.weight"][:, width:] /= divisor  # EDM divides the sums of messages instead
        move_pairs(f"{block}.gcl_equiv.coord_mlp", f"equivariant.{i}.message")
        move(f"{block}.gcl_equiv.coord_mlp.4", f"equivariant.{i}.weight", ("weight",))
    if left:
        raise ValueError(f"nothing corresponds to its {', '.join(sorted(left)[:3])}")
    return {name: value.to(torch.float32) for name, value in made.items()}, powers
