"""A denoising network together with the schedule it was trained on."""

from __future__ import annotations

from typing import Literal, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn

from tag_lightning.diffusion.conditioning import Conditioning
from tag_lightning.diffusion.reverse_process import Step, per_sample
from tag_lightning.diffusion.sample_sizes import wrong_size
from tag_lightning.diffusion.schedules import NoiseSchedule

PredictionType = Literal["epsilon", "sample", "v_prediction"]
"""The quantity a network predicts, in the words of diffusers: the noise, ``x0``, or the velocity."""

NULL_TIMESTEP_KEY = "_null_timestep"
"""Entry in the configuration of a network that was trained with its timestep dropped at random, saved with it."""

PREDICTION_KEY = "_prediction_type"
"""Entry in the configuration of a network that this package trained to predict another quantity than epsilon."""


def trained_prediction_type(network: nn.Module) -> PredictionType:
    """The quantity that a network of this package was trained to predict, as its configuration remembers it.

    Raises:
        ValueError: If the configuration names an unknown quantity.
    """
    return recorded_prediction_type(network) or "epsilon"


def recorded_prediction_type(network: nn.Module) -> PredictionType | None:
    """The quantity that the configuration of ``network`` names; None if it names none.

    Raises:
        ValueError: If it names an unknown one.
    """
    name = getattr(network, "config", {}).get(PREDICTION_KEY)
    return None if name is None else require_prediction_type(name)


def _agreed(given: str | None, network: nn.Module) -> PredictionType:
    """The quantity ``given``, or the one that the network records, which must not differ."""
    recorded = recorded_prediction_type(network)
    if given is None and recorded is None:
        raise ValueError(
            f"prediction_type of the {type(network).__name__} is unknown: give one of "
            f"{', '.join(get_args(PredictionType))}; a scheduler of diffusers has it as config.prediction_type"
        )
    if given is not None and recorded not in (None, require_prediction_type(given)):
        raise ValueError(f"the network was trained to predict {recorded}, not {given}; leave prediction_type out")
    return require_prediction_type(given or str(recorded))


def require_prediction_type(name: str) -> PredictionType:
    """Return ``name``, one of ``PredictionType``.

    Raises:
        ValueError: If it is another.
    """
    if name not in get_args(PredictionType):
        raise ValueError(f"prediction_type must be one of {', '.join(get_args(PredictionType))}, got {name!r}")
    return cast(PredictionType, name)


def prediction_target(
    prediction_type: PredictionType, schedule: NoiseSchedule, x0: Tensor, epsilon: Tensor, timesteps: Tensor
) -> Tensor:
    """The quantity ``[B, ...]`` that a network of ``prediction_type`` is trained to predict.

    Args:
        prediction_type: See ``Denoiser``.
        schedule: The noise schedule.
        x0: Clean samples ``[B, ...]``.
        epsilon: The noise added to them, ``[B, ...]``.
        timesteps: Their timesteps ``[B]``.
    """
    if prediction_type == "epsilon":
        return epsilon
    if prediction_type == "sample":
        return x0
    signal, noise = schedule.signal_and_noise(x0, timesteps)
    return signal * epsilon - noise * x0


class Prediction(NamedTuple):
    """The denoiser's prediction for noisy samples ``x_t``.

    Attributes:
        epsilon: The noise in them, ``[B, ...]``.
        x0: The clean samples behind them (Tweedie), ``[B, ...]``.
        alpha_bar: ``alphas_cumprod`` of the noise level that ``epsilon`` belongs to, if it differs from the
            step's: a float, or ``[B]`` for one per sample.
        input_scale: Factor by which the samples were multiplied before they were denoised: a float, or ``[B]``.
    """

    epsilon: Tensor
    x0: Tensor
    alpha_bar: Tensor | float | None = None
    input_scale: Tensor | float = 1.0

    def detach(self) -> Prediction:
        """The same values without their graph."""
        return self._replace(epsilon=self.epsilon.detach(), x0=self.x0.detach())

    def level(self, step: Step) -> Tensor | float:
        """``alphas_cumprod`` of the noise level that it was made at in ``step``: a float, or ``[B]``."""
        return step.alpha_bar if self.alpha_bar is None else self.alpha_bar

    def signal(self, step: Step) -> Tensor | float:
        """The change of the samples per change of ``x0``, at the same ``epsilon``: a float, or ``[B]``."""
        return self.level(step) ** 0.5 / self.input_scale

    def with_epsilon(self, epsilon: Tensor, step: Step) -> Prediction:
        """The prediction with the noise ``epsilon [B, ...]``, and ``x0`` such that both still make up the sample.

        ``sqrt(a) x0 + sqrt(1 - a) epsilon`` stays the same at the prediction's own noise level ``a``.
        """
        a = self.level(step)
        ratio = per_sample(((1 - a) / a) ** 0.5, epsilon)
        return self._replace(epsilon=epsilon, x0=self.x0 + ratio * (self.epsilon - epsilon))

    def with_x0(self, x0: Tensor, step: Step) -> Prediction:
        """The prediction with the clean samples ``x0 [B, ...]``, and ``epsilon`` along as in ``with_epsilon``."""
        a = self.level(step)
        ratio = per_sample((a / (1 - a)) ** 0.5, x0)
        return self._replace(epsilon=self.epsilon + ratio * (self.x0 - x0), x0=x0)


class Denoiser(nn.Module):
    """Turns a network into predictions of noise and clean sample.

    A conditional network gets the condition from ``inputs``, and the null condition if ``inputs`` lacks it.

    Args:
        network: Called as ``network(x_t, timesteps, **inputs)`` with ``timesteps [B]``; returns a tensor of the shape
            of ``x_t``, or a diffusers output with one as ``.sample``.
        schedule: The noise schedule the network was trained on.
        prediction_type: The quantity the network predicts: ``epsilon``, ``sample`` (x0), or ``v_prediction``,
            ``v = sqrt(alpha_bar) epsilon - sqrt(1 - alpha_bar) x0`` (Salimans and Ho 2022, App. D). None takes the one
            that the network's configuration records.
        clip_range: Largest absolute value of the predicted clean sample that a solver is given (``clip_sample_range``
            of diffusers); infinity does not clip, None clips to the range of the space.

    Attributes:
        conditioning: How the network is told a condition; None for an unconditional one.

    Raises:
        ValueError: If the network or the schedule is missing, ``prediction_type`` is unknown, missing, or another than
            the network's configuration records, or ``clip_range`` is not above 0.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: NoiseSchedule,
        prediction_type: PredictionType | None = None,
        clip_range: float | None = None,
    ) -> None:
        super().__init__()
        if not callable(network):
            raise ValueError(f"network must be a module that predicts from noisy samples, got {network!r}")
        if not isinstance(schedule, NoiseSchedule):
            raise ValueError(
                f"schedule must be the NoiseSchedule that the network was trained on, got {schedule!r}; a network "
                "without one, such as a guide, is not a denoiser"
            )
        if clip_range is not None and not clip_range > 0:
            raise ValueError(f"clip_range must be above 0, got {clip_range}; infinity does not clip")
        self.network = network
        self.schedule = schedule
        self.prediction_type = _agreed(prediction_type, network)
        self.clip_range = clip_range
        self.conditioning = Conditioning.of(network)

    @property
    def has_null_timestep(self) -> bool:
        """True if the network was trained with its timestep dropped at random."""
        return bool(getattr(self.network, "config", {}).get(NULL_TIMESTEP_KEY, False))

    @property
    def has_null_condition(self) -> bool:
        """True if the network was trained with a condition that was dropped at random."""
        return self.conditioning is not None and self.conditioning.has_null

    @property
    def scale_range(self) -> tuple[float, float] | None:
        """Guidance scales that the adapters of the network were trained at; None for a network without adapters."""
        known = getattr(self.network, "scale_range", None)
        return None if known is None else (float(known[0]), float(known[1]))

    def forward(
        self,
        x: Tensor,
        timestep: Tensor | int,
        null_timestep: bool = False,
        null_condition: bool = False,
        **inputs: Tensor,
    ) -> Prediction:
        """Predict for noisy samples ``x [B, ...]`` at ``timestep``, one integer or ``[B]`` of them.

        Args:
            x: Noisy samples.
            timestep: Their training timestep.
            null_timestep: Tell the network the null timestep instead; noise and clean sample are still those of
                ``timestep``. For networks trained with it.
            null_condition: Tell the network the null condition, whatever ``inputs`` say.
            **inputs: Further keyword arguments of the network.

        Raises:
            IndexError: If ``timestep`` is a number outside 0 .. T-1.
            ValueError: If the network cannot take the shape of ``x`` or returns another, or was not trained with the
                null timestep or the null condition that is asked for.
        """
        if null_timestep and not self.has_null_timestep:
            raise ValueError(
                "this denoiser was always told its timestep and cannot predict without; train one with "
                "timestep_dropout 0.1"
            )
        signal, noise = self.schedule.signal_and_noise(x, timestep)
        if null_timestep:
            timestep = self.schedule.null_timestep
        if isinstance(timestep, int):
            timestep = torch.full((len(x),), timestep, device=x.device)
        if null_condition or self.conditioning is not None:
            inputs = self._with_condition(inputs, x, null_condition)
        try:
            output = self.network(x, timestep.to(x.device).expand(len(x)), **inputs)
        except RuntimeError as error:
            why = None if isinstance(error, torch.OutOfMemoryError) else wrong_size(self.network, x.shape[1:])
            if why is None:
                raise
            raise ValueError(
                f"the denoiser ({type(self.network).__name__}) cannot take samples of shape {list(x.shape[1:])}: {why}"
            ) from error
        output = output if isinstance(output, Tensor) else output.sample
        if output.shape != x.shape:
            raise ValueError(
                f"the denoiser returned shape {list(output.shape)} for samples of shape {list(x.shape)}; "
                "its out_channels must equal its in_channels (without a predicted variance)"
            )
        # Tweedie's estimate (Chung et al. 2023, Eq. 10), or the noise that leads from it to x.
        if self.prediction_type == "epsilon":
            return Prediction(output, (x - noise * output) / signal)
        if self.prediction_type == "sample":
            return Prediction((x - signal * output) / noise, output)
        return Prediction(noise * x + signal * output, signal * x - noise * output)

    def _with_condition(self, inputs: dict[str, Tensor], x: Tensor, null_condition: bool) -> dict[str, Tensor]:
        if self.conditioning is None:
            if null_condition:
                raise ValueError("this denoiser is unconditional and has no null condition; train one with a condition")
            return inputs
        if null_condition or self.conditioning.argument not in inputs:
            return inputs | self.conditioning.null(len(x), x.device)
        return inputs
