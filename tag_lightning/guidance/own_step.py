"""The base of guidance that takes the whole step in place of the solver."""

from __future__ import annotations

from collections.abc import Sequence

from tag_lightning.diffusion import Guidance


class OwnStep(Guidance):
    """Takes a step of its own from the prediction that it sees, and discards the proposal of the solver.

    Raises:
        ValueError: When a sampler is made, beside a guidance that moves the proposal earlier in the list, changes the
            prediction later in it, or chooses the noise; and with recurrence.
    """

    needs_prediction = False
    single_pass = True

    def require_company(self, before: Sequence[Guidance], after: Sequence[Guidance]) -> None:
        own = type(self).__name__
        for other in (*before, *after):
            name = type(other).__name__
            if isinstance(other.innermost, OwnStep):
                raise ValueError(f"{own} and {name} both take the step; keep one, or let their intervals not overlap")
            if other.needs_noise:
                raise ValueError(f"{own} draws the noise of its steps, which {name} cannot choose; keep one of them")
        for name in (type(other).__name__ for other in before if other.moves_proposal):
            raise ValueError(f"{own} takes a step of its own and would discard that of {name}; put it before {name}")
        for name in (type(other).__name__ for other in after if other.changes_prediction):
            raise ValueError(
                f"{own} steps from the prediction it sees, without the change by {name}; put it after {name}"
            )
