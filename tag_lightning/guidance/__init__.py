"""Guidance of the reverse process, one idea per file, without data sets or Lightning."""

from tag_lightning.diffusion import Guidance
from tag_lightning.guidance.adaptive_moments import AdaptiveMoments
from tag_lightning.guidance.calibrated_noise import CalibratedNoise
from tag_lightning.guidance.classifier import ClassifierGuidance
from tag_lightning.guidance.conditions import (
    Condition,
    ConditionedGuidance,
    JointCondition,
    SquaredError,
    residual_norm,
)
from tag_lightning.guidance.corruption import Corruption, Drift
from tag_lightning.guidance.noise_level import KnownNoise, NoiseLevel, RegressedNoise
from tag_lightning.guidance.posterior_noise import PosteriorNoise
from tag_lightning.guidance.predicted_moves import AlignedMoves, ProximalAlignment
from tag_lightning.guidance.predicted_noise import PredictedNoise
from tag_lightning.guidance.retiming import Retiming
from tag_lightning.guidance.spherical import DSG
from tag_lightning.guidance.strengths import (
    ConstantStrength,
    Evidence,
    NoiseProportionalStrength,
    PolyakStrength,
    Strength,
)
from tag_lightning.guidance.tag import TemporalAlignment, TemporalAlignmentAfterStep
from tag_lightning.guidance.tracked_noise import TrackedNoise
from tag_lightning.guidance.training_free import DPS, LGD, MPGD, TFG, UGD, FreeDoM, ResidualDPS
from tag_lightning.guidance.trust_region import FixedLengthSteps, TrustRegion
from tag_lightning.guidance.wavelet_noise import WaveletNoise
from tag_lightning.guidance.wrapper import GuidanceWrapper

__all__ = [
    "DPS",
    "DSG",
    "LGD",
    "MPGD",
    "TFG",
    "UGD",
    "AdaptiveMoments",
    "AlignedMoves",
    "CalibratedNoise",
    "ClassifierGuidance",
    "Condition",
    "ConditionedGuidance",
    "ConstantStrength",
    "Corruption",
    "Drift",
    "Evidence",
    "FixedLengthSteps",
    "FreeDoM",
    "Guidance",
    "GuidanceWrapper",
    "JointCondition",
    "KnownNoise",
    "NoiseLevel",
    "NoiseProportionalStrength",
    "PolyakStrength",
    "PosteriorNoise",
    "PredictedNoise",
    "ProximalAlignment",
    "RegressedNoise",
    "ResidualDPS",
    "Retiming",
    "SquaredError",
    "Strength",
    "TemporalAlignment",
    "TemporalAlignmentAfterStep",
    "TrackedNoise",
    "TrustRegion",
    "WaveletNoise",
    "residual_norm",
]
