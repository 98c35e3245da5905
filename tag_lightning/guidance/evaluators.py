"""Evaluators of candidate predictions: what ``DynamicCFG`` chooses its scale by."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Self

from torch import Tensor, nn

from tag_lightning.diffusion import Prediction, Run, Step
from tag_lightning.evaluation_mode import evaluating
from tag_lightning.guidance.conditions import Condition, Conditions, JointCondition, condition_for_run
from tag_lightning.guidance.time_posterior import TimePredictorGuidance


class Evaluator(ABC):
    """A score of candidate predictions for the same samples; scores compare candidates, not samples or steps."""

    def for_run(self, run: Run) -> Self:
        """This evaluator with everything it left open taken from the run.

        Raises:
            ValueError: If the run lacks something; names it.
        """
        return self

    def require_ready(self) -> None:
        """Check that nothing is left open.

        Raises:
            ValueError: If something is; names it.
        """
        return

    @abstractmethod
    def scores(self, candidate: Prediction, step: Step) -> Tensor:
        """One number per sample, ``[B]``, higher for a better candidate; called without gradients.

        Args:
            candidate: Noise and clean sample of one candidate, inside the range of the space.
            step: The step.
        """


class ConditionEvaluator(Evaluator):
    """The log-likelihood of the condition, ``log p(c | x0)``: how well a candidate is what it was asked to be.

    Args:
        condition: A condition on clean samples; or the name of one of the run's conditions, or several names, whose
            log-likelihoods are summed. None takes all conditions of the run.
    """

    def __init__(self, condition: Conditions = None) -> None:
        self.condition = condition

    def for_run(self, run: Run) -> Self:
        ready = copy.copy(self)
        ready.condition = condition_for_run(self.condition, run, type(self).__name__)
        return ready

    def require_ready(self) -> None:
        self._likelihood()

    def _likelihood(self) -> Condition | JointCondition:
        if not isinstance(self.condition, Condition | JointCondition):
            raise ValueError(f"{type(self).__name__} has no condition yet: pass a Condition, or call for_run with one")
        return self.condition

    def scores(self, candidate: Prediction, step: Step) -> Tensor:
        return self._likelihood().log_likelihood(step.space.decode(candidate.x0), **step.space.inputs)


class DiscriminatorEvaluator(Evaluator):
    """The logit of a discriminator of real and generated samples at ``x0``: how real a candidate looks.

    Args:
        network: Maps clean samples ``[B, ...]`` and the inputs of the space to logits ``[B]`` or ``[B, 1]``, higher for
            real ones; with its trained weights.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def scores(self, candidate: Prediction, step: Step) -> Tensor:
        """See ``Evaluator``.

        Raises:
            ValueError: If the network gives more than one logit.
        """
        network = self.network.to(candidate.x0.device)
        with evaluating(network):
            logits = network(step.space.decode(candidate.x0), **step.space.inputs)
        if logits.shape not in ((len(logits),), (len(logits), 1)):
            raise ValueError(
                f"a discriminator gives one logit per sample, but {type(network).__name__} gives {list(logits.shape)}"
            )
        return logits.reshape(len(logits))


class TimeEvaluator(Evaluator):
    """The time predictor as evaluator: ``log p(t' | x')`` of the sample x' to which a candidate leads at timestep t'.

    ``x' = sqrt(a') x0 + sqrt(1 - a') epsilon`` is the end of a deterministic step (``DDIM(eta=0)``), whatever solver is
    used: the noise of a stochastic one would hide the difference between candidates. The last step ends at the data,
    which is judged at timestep 0. Time predictors read noisy samples, so the evaluator judges the next sample rather
    than ``x0``; a candidate that leaves the marginal of t' scores low.

    Args:
        predictor: Time predictor; None takes that of the run.
    """

    def __init__(self, predictor: nn.Module | None = None) -> None:
        self.posterior = TimePredictorGuidance(predictor)

    def for_run(self, run: Run) -> Self:
        ready = copy.copy(self)
        own = self.posterior.predictor
        ready.posterior = TimePredictorGuidance(run.predictor if own is None else own)
        ready.require_ready()
        return ready

    def require_ready(self) -> None:
        if self.posterior.predictor is None:
            raise ValueError(f"{type(self).__name__} has no time predictor: pass predictor=..., or give the run one")

    def scores(self, candidate: Prediction, step: Step) -> Tensor:
        a, reached = step.next_alpha_bar, step.next_timestep or 0
        x = a**0.5 * candidate.x0 + (1 - a) ** 0.5 * candidate.epsilon
        return self.posterior.log_posterior(x, replace(step, timestep=reached, alpha_bar=a))[:, reached]
