"""Comparisons of networks that are trained already."""

from __future__ import annotations

from typing import Any, NoReturn

from lightning import LightningModule

_UNTRAINABLE = "ComparisonModule has nothing to train; compare with validate, or choose another --model"


class ComparisonModule(LightningModule):
    """Trains and validates nothing: ``validate`` and ``test`` draw the arms of ``sampling``, from saved networks alone.

    ``sampling.denoiser`` names the base model, ``sampling.predictor`` the time predictor of arms with TAG. There are no
    weights to evaluate, so ``--ckpt_path`` is not needed. With ``ImageStatisticsDataModule`` or
    ``MoleculeStatisticsDataModule`` the data set is not needed either.
    """

    def sampling_resources(self) -> dict[str, Any]:
        """Nothing: all networks are those that the settings name."""
        return {}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Do nothing: ``GuidedSampling`` compares when the validation ends."""

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Do nothing: ``GuidedSampling`` compares when the test ends."""

    def predict_step(self, batch: Any, batch_idx: int) -> tuple[()]:
        """Do nothing: ``GuidedSampling`` draws the samples."""
        return ()  # Lightning warns about None

    def training_step(self, batch: Any, batch_idx: int) -> NoReturn:
        """Refuse to train."""
        raise ValueError(_UNTRAINABLE)

    def configure_optimizers(self) -> NoReturn:
        """Refuse to train."""
        raise ValueError(_UNTRAINABLE)
