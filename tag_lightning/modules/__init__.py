"""LightningModules that train one kind of network each."""

from tag_lightning.modules.autoencoder import AutoencoderModule
from tag_lightning.modules.comparison import ComparisonModule
from tag_lightning.modules.diffusion import DiffusionModule
from tag_lightning.modules.expert_distillation import ExpertDistillationModule
from tag_lightning.modules.guidance_distillation import GuidanceDistillationModule
from tag_lightning.modules.learning_rate import WarmUpStableDecay
from tag_lightning.modules.noise_level import NoiseLevelModule
from tag_lightning.modules.property import PropertyModule
from tag_lightning.modules.regression import RegressionModule
from tag_lightning.modules.reward_weighted import RewardWeightedModule
from tag_lightning.modules.time_predictor import TimePredictorModule

__all__ = [
    "AutoencoderModule",
    "ComparisonModule",
    "DiffusionModule",
    "ExpertDistillationModule",
    "GuidanceDistillationModule",
    "NoiseLevelModule",
    "PropertyModule",
    "RegressionModule",
    "RewardWeightedModule",
    "TimePredictorModule",
    "WarmUpStableDecay",
]
