"""The base of time predictors, and the smallest one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from tag_lightning.networks.quantity_units import mean_and_spread


class ConditionEmbedding(nn.Module):
    """Embeds the conditions of a time predictor (arXiv 2510.11057).

    Args:
        conditions: Number of classes of each condition, or 0 for a quantity.
        width: Width of each embedding.

    Attributes:
        mean: Mean of each quantity over the training data, ``[C]``.
        spread: Mean absolute deviation, ``[C]``; quantities are standardised by both.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, conditions: Mapping[str, int], width: int = 32) -> None:
        super().__init__()
        conditions = dict(sorted(conditions.items()))  # as saved configurations have them
        self.names = tuple(conditions)
        self.width = width * len(conditions)
        self.layers = nn.ModuleDict(
            {
                name: nn.Embedding(classes, width)
                if classes
                else nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))
                for name, classes in conditions.items()
            }
        )
        self.register_buffer("mean", torch.zeros(len(conditions)))
        self.register_buffer("spread", torch.ones(len(conditions)))

    def measure(self, batches: Iterable[Mapping[str, Tensor]]) -> None:
        """Measure mean and spread (mean absolute deviation) of the quantities on real data.

        Raises:
            ValueError: If a quantity has one value only.
        """
        quantities = [k for k, layer in enumerate(self.layers.values()) if not isinstance(layer, nn.Embedding)]
        if not quantities:
            return
        columns = [torch.stack([batch[name].double() for name in self.names]) for batch in batches]
        mean, spread = mean_and_spread(torch.cat(columns, 1)[quantities].T, [self.names[k] for k in quantities])
        self.mean[quantities] = mean.to(self.mean)
        self.spread[quantities] = spread.to(self.spread)

    def forward(self, values: Mapping[str, Tensor]) -> Tensor:
        """``[B, C width]`` for the value of every condition, ``[B]`` each."""
        parts = []
        for k, (name, layer) in enumerate(self.layers.items()):
            value = values[name]
            if not isinstance(layer, nn.Embedding):
                value = ((value - self.mean[k]) / self.spread[k])[:, None].to(self.mean)
            parts.append(layer(value))
        return torch.cat(parts, 1)


class TimePredictor(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers' own two bases disagree
    """Base class of networks that predict the timestep, 0 .. T - 1, of a noisy sample.

    Subclasses map samples ``[B, ...]`` to logits ``[B, T]`` and pass the input of their last linear layer through
    ``with_condition``. With conditions, as in the single- and multi-condition predictors of arXiv 2510.11057, every
    call takes their values, ``[B]`` each, as keyword arguments.

    Args:
        num_timesteps: T of the denoiser's schedule.
        conditions: Number of classes of each condition, or 0 for a quantity; None is unconditional.

    Attributes:
        typical_nll: Mean ``-log p(t | x_t)`` of real, forward-noised data at every timestep, ``[T]`` in nats;
            NaN until measured. Saved with the weights, for self-calibrating strengths.
        nll_quantiles: Quantiles ``quantile_levels`` of the same, ``[Q, T]``; NaN until measured, and in networks saved
            before version 0.3.

    Raises:
        ValueError: If ``num_timesteps`` is below 2, or a number of classes negative.
    """

    optional_keys = ("nll_quantiles",)  # networks saved without them load as well
    nan_until_measured = ("typical_nll", "nll_quantiles")
    quantile_levels = (0.5, 0.75, 0.9, 0.95, 0.99)
    typical_nll: Tensor
    nll_quantiles: Tensor

    def __init__(self, num_timesteps: int, conditions: Mapping[str, int] | None = None) -> None:
        super().__init__()
        if num_timesteps < 2:
            raise ValueError(f"num_timesteps must be at least 2, got {num_timesteps}")
        if any(classes < 0 for classes in (conditions or {}).values()):
            raise ValueError(f"conditions are numbers of classes, or 0 for a quantity, got {conditions}")
        self.embedding = ConditionEmbedding(conditions) if conditions else None
        self.register_buffer("typical_nll", torch.full((num_timesteps,), torch.nan))
        self.register_buffer("nll_quantiles", torch.full((len(self.quantile_levels), num_timesteps), torch.nan))

    @property
    def num_timesteps(self) -> int:
        """T, the number of timesteps."""
        return len(self.typical_nll)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        state_dict.setdefault(f"{prefix}nll_quantiles", torch.full_like(self.nll_quantiles, torch.nan))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the conditions, keyword arguments of every call."""
        return () if self.embedding is None else self.embedding.names

    @property
    def condition_width(self) -> int:
        """Number of columns that ``with_condition`` adds."""
        return 0 if self.embedding is None else self.embedding.width

    def with_condition(self, features: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        """``features [B, D]`` with the embedded conditions beside them.

        Raises:
            ValueError: If a condition's value is missing.
        """
        if self.embedding is None:
            return features
        self.require_values(values)
        return torch.cat((features, self.embedding(values)), 1)

    def require_values(self, values: Mapping[str, Tensor]) -> None:
        """Check that every condition has a value.

        Raises:
            ValueError: Names one that is missing.
        """
        missing = [name for name in self.conditions if name not in values]
        if missing:
            raise ValueError(
                f"{type(self).__name__} was trained with the condition {missing[0]!r}, which is missing; pass "
                f"{missing[0]}=..., or let the task ask for a value of it"
            )


class ConditionedTimePredictor(nn.Module):
    """A time predictor together with the values of its conditions, called as an unconditional one.

    Args:
        predictor: Any time predictor.
        values: Values of the conditions by name, ``[B]`` each; those that the predictor does not need are left out.
    """

    def __init__(self, predictor: TimePredictor, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.predictor = predictor
        self.values = {name: values[name] for name in predictor.conditions if name in values}

    def require_complete(self) -> None:
        """Check that every condition of the predictor has a value.

        Raises:
            ValueError: Names one that is missing.
        """
        self.predictor.require_values(self.values)

    @property
    def typical_nll(self) -> Tensor:
        """The ``typical_nll`` of the predictor, ``[T]``."""
        return self.predictor.typical_nll

    @property
    def quantile_levels(self) -> tuple[float, ...]:
        """The levels of ``nll_quantiles``."""
        return self.predictor.quantile_levels

    @property
    def nll_quantiles(self) -> Tensor:
        """The ``nll_quantiles`` of the predictor, ``[Q, T]``."""
        return self.predictor.nll_quantiles

    def forward(self, x: Tensor, **inputs: Tensor) -> Tensor:
        """Logits ``[B, T]``."""
        return self.predictor(x, **inputs, **self.values)


class MLPTimePredictor(TimePredictor):
    """A multi-layer perceptron over samples that are plain vectors, for the toy experiment.

    Args:
        num_features: D, the dimensions of a sample.
        num_timesteps: T.
        widths: Width of each hidden layer.
        conditions: See ``TimePredictor``.
    """

    @register_to_config
    def __init__(
        self,
        num_features: int = 2,
        num_timesteps: int = 100,
        widths: tuple[int, ...] = (128, 128, 128),
        conditions: dict[str, int] | None = None,
    ) -> None:
        super().__init__(num_timesteps, conditions)
        sizes = (num_features, *widths)
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise(sizes):
            layers += [nn.Linear(width_in, width_out), nn.SiLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(sizes[-1] + self.condition_width, num_timesteps)

    def forward(self, x: Tensor, **values: Tensor) -> Tensor:
        """Logits ``[B, T]`` for samples ``x [B, D]``."""
        return self.head(self.with_condition(self.layers(x), values))
