"""The condition that a denoiser is told: a class or a quantity of each sample, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

CONDITION_KEY = "_condition"
"""Entry in the configuration of a network that was trained with a condition, saved with it."""

CONTEXT_SPLIT_KEY = "_context_split"
"""Entry in the configuration of a network that is told a quantity in units of its mean and spread over this split of
its data, as long as the network does not have them."""


@dataclass(frozen=True)
class Conditioning:
    """The way in which a network is told one attribute of each sample.

    The null condition, "not told", is the class K of a network that tells K classes apart, and NaN for a quantity.

    Attributes:
        attribute: Name of the attribute in the data.
        argument: Keyword argument of the network that takes its values, ``[B]``.
        num_classes: K, or None for a quantity.
        has_null: The network was trained with the condition dropped at random.
    """

    attribute: str
    argument: str
    num_classes: int | None
    has_null: bool

    @classmethod
    def of(cls, network: nn.Module) -> Conditioning | None:
        """The conditioning that a network was trained with; None for an unconditional one."""
        saved: Mapping[str, Any] | None = getattr(network, "config", {}).get(CONDITION_KEY)
        return None if saved is None else cls(**saved)

    @classmethod
    def for_training(cls, network: nn.Module, attribute: str, dropout: float) -> Conditioning:
        """The conditioning of a network about to be trained; its configuration will remember it.

        Args:
            network: A UNet of diffusers with ``num_class_embeds`` K + 1, or an ``EGNNDenoiser(num_context=1)``.
            attribute: Name of the attribute in the data.
            dropout: Probability with which the condition is dropped.

        Raises:
            ValueError: If the network takes no condition.
        """
        config = getattr(network, "config", {})
        if config.get("num_class_embeds"):
            found = cls(attribute, "class_labels", config["num_class_embeds"] - 1, dropout > 0)
        elif config.get("num_context") == 1:
            found = cls(attribute, "context", None, dropout > 0)
        else:
            raise ValueError(
                f"condition is {attribute!r}, but the {type(network).__name__} takes none; set num_class_embeds of a "
                "UNet to the number of classes + 1, or num_context of an EGNNDenoiser to 1"
            )
        network.register_to_config(**{CONDITION_KEY: asdict(found)})  # type: ignore[operator]
        return found

    def require_data(self, num_classes: Mapping[str, int], attributes: Mapping[str, Tensor]) -> None:
        """Check that data have the attribute, and not more classes than the network tells apart.

        Args:
            num_classes: Number of classes of each class attribute of the data.
            attributes: Attributes of some samples.

        Raises:
            ValueError: Names the attribute, and what to change.
        """
        if self.attribute not in attributes:
            listed = ", ".join(sorted(attributes)) or "(none)"
            raise ValueError(f"condition is {self.attribute!r}, but the data have {listed}")
        classes = num_classes.get(self.attribute)
        if (classes is None) != (self.num_classes is None):
            kinds = ("a quantity", "a class") if classes is None else ("a class", "a quantity")
            raise ValueError(
                f"condition {self.attribute!r} is {kinds[0]} of the data, but the network takes {kinds[1]}; choose "
                "another attribute or network"
            )
        if classes is not None and self.num_classes is not None and classes > self.num_classes:
            raise ValueError(
                f"the data have {classes} classes of {self.attribute!r}, but the network tells {self.num_classes} "
                f"apart; set its num_class_embeds to {classes + 1}, one more for the null label"
            )

    def of_data(self, attributes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The keyword argument of the network for a batch of training data; a quantity may be NaN, which is unknown.

        Args:
            attributes: Attributes by name, ``[B]`` each.
        """
        return {self.argument: attributes[self.attribute]}

    def inputs(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The keyword argument of the network for samples that are asked to have these attributes.

        Args:
            values: Attributes by name, ``[B]`` each.

        Raises:
            ValueError: If the attribute is missing, a class is out of range, or a quantity not finite.
        """
        if self.attribute not in values:
            raise ValueError(
                f"the denoiser was trained with the condition {self.attribute!r}, which nothing asks for; let the task "
                "ask for a value of it, or take an unconditional denoiser"
            )
        chosen = values[self.attribute]
        if self.num_classes is None:
            lost = int((~chosen.isfinite()).sum())
            if lost:
                raise ValueError(
                    f"the denoiser is told {self.attribute!r}, but {lost} of {len(chosen)} values asked for are not "
                    "finite; ask for others"
                )
        elif len(chosen) and not 0 <= int(chosen.min()) <= int(chosen.max()) < self.num_classes:
            raise ValueError(
                f"the denoiser knows the classes 0 .. {self.num_classes - 1} of {self.attribute!r}, but "
                f"{int(chosen.min())} .. {int(chosen.max())} are asked for; ask for others, or train a denoiser on them"
            )
        return {self.argument: chosen}

    def null(self, count: int, device: torch.device) -> dict[str, Tensor]:
        """The keyword argument of the network for ``count`` samples of which it is told nothing.

        Raises:
            ValueError: If the network was trained without.
        """
        if not self.has_null:
            raise ValueError(
                f"this denoiser was always told the {self.attribute!r} of a sample and cannot predict without; train "
                "one with condition_dropout 0.1"
            )
        if self.num_classes is None:
            return {self.argument: torch.full((count,), torch.nan, device=device)}
        return {self.argument: torch.full((count,), self.num_classes, device=device)}

    def trial(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The null condition of one sample, or the one among ``values [1]`` for networks trained without.

        Raises:
            ValueError: If the network needs a value that is missing.
        """
        return self.null(1, torch.device("cpu")) if self.has_null else self.inputs(values)
