"""LightningModules that train the three kinds of network."""

from tag_lightning.modules.diffusion import DiffusionModule
from tag_lightning.modules.property import PropertyModule
from tag_lightning.modules.regression import RegressionModule
from tag_lightning.modules.time_predictor import TimePredictorModule

__all__ = ["DiffusionModule", "PropertyModule", "RegressionModule", "TimePredictorModule"]
