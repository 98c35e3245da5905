"""Reward-weighted fine-tuning of a denoiser."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from tag_lightning.evaluation_mode import evaluating
from tag_lightning.modules.diffusion import DiffusionModule

_CHUNK = 1024


class RewardWeightedModule(DiffusionModule):
    """Tunes a denoiser towards samples of high reward, by weighting the loss of each training sample.

    ``E[w(x0) |epsilon - epsilon_theta(x_t, t)|^2]`` with ``w(x0) = exp(r(x0) / temperature)`` over its mean on the
    training split: reward-weighted likelihood (Lee et al. 2023, arXiv 2302.12192) with the exponential weights of
    reward-weighted regression (Peters and Schaal 2007; RWR in Black et al. 2023, arXiv 2305.13301). Both papers weight
    samples of the model itself, the first by the reward without an exponential; here the training samples stand for
    those of the model that was trained on them. ``GeneratedDataModule`` draws them from the model instead.

    A perfect network then is the denoiser of ``p(x0) exp(r(x0) / temperature)``, which maximises the mean reward less
    ``temperature`` times the Kullback-Leibler divergence from the data's ``p``. ``RLGuidance`` at scale w mixes it with
    the denoiser of ``p``; for Gaussian data and a linear reward the mixture is the tuned denoiser at
    ``temperature / w``.

    Begin with the weights of that denoiser: ``--ckpt_path digits/conditional_denoiser``.

    Args:
        network: See ``DiffusionModule``.
        reward: Maps clean samples ``[B, ...]`` and the inputs of the data to rewards ``[B]``; not trained.
        temperature: In units of the reward, above 0. Large values change little; small ones let few samples decide,
            whose share ``effective_share`` states.
        **kwargs: Arguments of ``DiffusionModule``.

    Attributes:
        mean_reward: Mean reward of the training split; known after ``setup``.
        tuned_reward: The same with the weights: the mean reward of the distribution that is learned.
        effective_share: Effective number of weighted samples over their number, in (0, 1].

    Raises:
        ValueError: If ``temperature`` is not above 0; in ``setup`` if the reward is not one finite number per sample.
    """

    mean_reward = tuned_reward = effective_share = math.nan
    _offset = 0.0

    def __init__(
        self,
        network: nn.Module,
        reward: nn.Module,
        temperature: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(network, **kwargs)
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be a finite number above 0, got {temperature}")
        self.reward = reward.requires_grad_(False)
        self.temperature = temperature

    def setup(self, stage: str) -> None:
        """Check the data and measure the reward of the training split, whose weights have a mean of 1."""
        super().setup(stage)
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        if hasattr(datamodule, "table"):
            self._measure(datamodule.table("train"))

    def _measure(self, table: Any) -> None:
        with evaluating(self.reward):
            chunks = [range(start, min(start + _CHUNK, len(table))) for start in range(0, len(table), _CHUNK)]
            rewards = torch.cat([self._rewards(table[list(chunk)]) for chunk in chunks]).double()
        exponents = rewards / self.temperature
        self._offset = float(exponents.logsumexp(0)) - math.log(len(rewards))
        weights = (exponents - self._offset).exp()
        self.mean_reward, self.tuned_reward = float(rewards.mean()), float((weights * rewards).mean())
        self.effective_share = float(weights.mean().square() / weights.square().mean())

    @torch.no_grad()
    def _rewards(self, batch: Any) -> Tensor:
        rewards = self.reward(batch.x, **batch.inputs)
        name = type(self.reward).__name__
        if rewards.shape != batch.x.shape[:1]:
            raise ValueError(
                f"a reward must be one number per sample, but {name} returns {list(rewards.shape)} for {len(batch.x)} "
                "samples; set model.init_args.reward"
            )
        if not bool(rewards.isfinite().all()):
            raise ValueError(f"{name} rewards {int((~rewards.isfinite()).sum())} training samples with NaN or infinity")
        return rewards

    def sample_weights(self, batch: Any) -> Tensor:
        with evaluating(self.reward):
            return (self._rewards(batch) / self.temperature - self._offset).exp()
