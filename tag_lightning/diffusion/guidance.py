"""The contract between the reverse loop and guidance: three hooks, in the order in which a step runs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

from torch import Tensor, nn

from tag_lightning.diffusion.arguments import Rebuildable
from tag_lightning.diffusion.denoiser import Denoiser, Prediction
from tag_lightning.diffusion.reverse_process import Proposal, Recurrence, Step, require_interval


class Predict(Protocol):
    """The denoiser as wrapped by the guidance earlier in the list; may be called under grad."""

    def __call__(self, x: Tensor, timestep: Tensor | int, **inputs: Tensor | bool) -> Prediction:
        """Predict for ``x [B, ...]`` at one timestep or ``[B]`` of them; ``inputs`` override those of the space.

        ``null_timestep=True`` keeps the timestep from the network, ``null_condition=True`` the condition, see
        ``Denoiser``.
        """
        ...


@dataclass(frozen=True)
class Run:
    """Everything that guidance may leave open until it knows the run.

    Attributes:
        predictor: Time predictor of noisy samples.
        conditions: Conditions of this batch by name (``tag_lightning.guidance.Condition``).
        noise_level: Regressor of the noise level (``tag_lightning.networks.NoiseLevelCNN``, ``EGNNNoiseLevel``).
        load_denoiser: Loads a further denoiser by its name or path; None cannot.
    """

    predictor: nn.Module | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict)
    noise_level: nn.Module | None = None
    load_denoiser: Callable[[str], Denoiser] | None = None


class Guidance(Rebuildable):
    """A change to the reverse process; each hook leaves it alone unless a subclass overrides it.

    Hooks run in list order. Guidance objects are not changed by sampling: memory from step to step goes into
    ``step.state``, which is empty at the start of every run.

    Args:
        start: Noisiest timestep at which this guidance acts; None is T-1.
        stop: Cleanest timestep at which it acts; None is 0.

    Attributes:
        needs_grad: ``propose`` differentiates ``prediction`` with respect to ``x``. The denoiser records its graph
            in the steps in which such a guidance acts, and only there.
        needs_noise: ``propose`` chooses the noise of the proposal, which a deterministic solver does not have.
        needs_null_timestep: Asks a denoiser that was trained with its timestep dropped at random.
        needs_condition: Needs a conditional denoiser that is told the condition of each sample.
        needs_null_condition: Asks a conditional denoiser for its answers with and without the condition; implies
            ``needs_condition``.
        needs_predicted_noise: ``denoise`` returns noise and clean sample that do not make up ``x``, for solvers that
            read both.
        needs_prediction: ``propose`` reads ``prediction``. The denoiser is called again for it where another guidance
            predicts at other timesteps or without a graph; False spares that call.
        keeps_graph: ``denoise`` returns a prediction whose graph leads back to ``x``, if it was asked under grad.
        replaces_timestep: ``denoise`` answers at a timestep of its own choice, whichever it was asked for.
        single_pass: The steps at which it acts cannot be repeated.
        recurrence: Default recurrence of the method, used unless the sampler is given one.
        steers: Moves samples towards a condition. Disturbances and corrections of the noise level do not; samples of an
            arm with nothing else have no alignment with what was asked.
        cost: Forward / backward passes per step, as ``denoiser 1 / 1, guide 1 / 1``, with K noise draws, n moves of
            mean guidance, r passes of a recurrence. ``python -m tag_lightning arms`` and docs/methods.md show it.

    Raises:
        ValueError: If ``start`` is below ``stop``, or one is negative.
    """

    cost: ClassVar[str] = "denoiser 1 / 0"
    steers: ClassVar[bool] = True
    needs_grad: bool = False
    needs_noise: bool = False
    needs_null_timestep: bool = False
    needs_condition: bool = False
    needs_null_condition: bool = False
    needs_predicted_noise: bool = False
    needs_prediction: bool = True
    keeps_graph: bool = True
    replaces_timestep: bool = False
    single_pass: bool = False
    recurrence: Recurrence | None = None
    start: int | None = None
    stop: int | None = None

    def __init__(self, start: int | None = None, stop: int | None = None) -> None:
        require_interval(start, stop)
        self.start = start
        self.stop = stop

    @property
    def innermost(self) -> Guidance:
        """The guidance inside all wrappers, itself if it is not one."""
        return self

    @property
    def changes_prediction(self) -> bool:
        """True if ``denoise`` may answer otherwise than the guidance before it; a wrapper answers for what it wraps."""
        return type(self).denoise is not Guidance.denoise

    @property
    def moves_proposal(self) -> bool:
        """True if ``propose`` may change the proposal; a wrapper answers for what it wraps."""
        return type(self).propose is not Guidance.propose

    def acts(self, timestep: int) -> bool:
        """True if the hooks run at this training timestep: ``stop <= timestep <= start``."""
        return (self.start is None or timestep <= self.start) and (self.stop is None or timestep >= self.stop)

    def for_run(self, run: Run) -> Self:
        """This guidance with everything it left open taken from the run.

        Raises:
            ValueError: If the run lacks something; names it.
        """
        return self

    def require_denoiser(self, denoiser: Denoiser) -> None:
        """Check the denoiser of the run, when a sampler is made.

        Raises:
            ValueError: If this guidance cannot run with it; names the reason and the way out.
        """
        return

    def require_company(self, before: Sequence[Guidance], after: Sequence[Guidance]) -> None:
        """Check the guidances that act at some timestep together with this one, when a sampler is made.

        Args:
            before: Those earlier in the list.
            after: Those later in the list.

        Raises:
            ValueError: If this one cannot run beside one of them; names both and the way out.
        """
        return

    def require_measured(self, timesteps: Sequence[int]) -> None:
        """Check, before any sample is drawn, that what this guidance compares with was measured on real data.

        A method that needs nothing of the kind asks the guidances among its attributes, as a wrapper has them.

        Args:
            timesteps: The training timesteps of the run, noisiest first.

        Raises:
            ValueError: Names what is missing and the way out.
        """
        for value in vars(self).values():
            for entry in value if isinstance(value, list | tuple) else (value,):
                if not isinstance(entry, Guidance):
                    continue
                try:
                    entry.require_measured(timesteps)
                except ValueError as error:
                    raise ValueError(f"{type(self).__name__}: {error}") from error

    def correct(self, x: Tensor, step: Step, predict: Predict) -> Tensor:
        """Move the noisy samples ``x [B, ...]`` before they are denoised."""
        return x

    def denoise(self, x: Tensor, step: Step, predict: Predict) -> Prediction:
        """Predict for ``x [B, ...]`` at ``step.timestep``, usually by calling ``predict``."""
        return predict(x, step.timestep)

    def propose(self, proposal: Proposal, x: Tensor, prediction: Prediction, step: Step) -> Proposal:
        """Change the proposed next samples.

        Args:
            proposal: The solver's proposal for ``step.next_timestep``, changed by the guidance earlier in the list.
            x: The samples that were denoised, ``[B, ...]``; a leaf that requires grad if a guidance of this step has
                ``needs_grad``.
            prediction: The denoiser's own prediction for ``x``, unclipped, with its graph if a guidance of this step
                has ``needs_grad``, even if another guidance replaced it for the solver.
            step: The step taken.
        """
        return proposal
