"""Guidance of the reverse process, one idea per file, without data sets or Lightning."""

from tag_lightning.diffusion import Guidance
from tag_lightning.guidance.adapter_guidance import AdapterGuidance
from tag_lightning.guidance.adaptive_guidance import AdaptiveGuidance
from tag_lightning.guidance.adaptive_length import AdaptiveLengthSteps
from tag_lightning.guidance.adaptive_moments import AdaptiveMoments
from tag_lightning.guidance.calibrated_noise import CalibratedNoise
from tag_lightning.guidance.cfg_plus_plus import CFGPlusPlus
from tag_lightning.guidance.cfg_zero_star import CFGZeroStar
from tag_lightning.guidance.classifier import ClassifierGuidance
from tag_lightning.guidance.classifier_free import CFG
from tag_lightning.guidance.conditions import (
    Condition,
    ConditionedGuidance,
    JointCondition,
    SquaredError,
    residual_norm,
)
from tag_lightning.guidance.corruption import Corruption, Drift, Quantisation
from tag_lightning.guidance.dps import DPS
from tag_lightning.guidance.dynamic_cfg import DynamicCFG
from tag_lightning.guidance.elucd import EluCD
from tag_lightning.guidance.epsilon_scaling import EpsilonScaling
from tag_lightning.guidance.evaluators import ConditionEvaluator, DiscriminatorEvaluator, Evaluator, TimeEvaluator
from tag_lightning.guidance.freedom import FreeDoM
from tag_lightning.guidance.further_denoiser import AutoGuidance, RLGuidance
from tag_lightning.guidance.gfcg import GFCG
from tag_lightning.guidance.langevin import LangevinCorrector
from tag_lightning.guidance.level_alignment import LevelAlignment
from tag_lightning.guidance.lgd import LGD
from tag_lightning.guidance.morered import MoreRedAS, MoreRedITP, MoreRedJT
from tag_lightning.guidance.mpgd import MPGD
from tag_lightning.guidance.noise_awareness import ClassifierFreeNoiseAwareness, NoiseAwarenessGuidance
from tag_lightning.guidance.noise_level import KnownNoise, NoiseLevel, RegressedNoise
from tag_lightning.guidance.noise_level_correction import NoiseLevelCorrection
from tag_lightning.guidance.patch_noise import PatchNoise
from tag_lightning.guidance.posterior_noise import PosteriorNoise
from tag_lightning.guidance.predicted_moves import AlignedMoves, ProximalAlignment
from tag_lightning.guidance.predicted_noise import PredictedNoise
from tag_lightning.guidance.projected_guidance import APG
from tag_lightning.guidance.ranges import Hinge, Range
from tag_lightning.guidance.red_diff import REDDiff
from tag_lightning.guidance.residual_dps import ResidualDPS
from tag_lightning.guidance.retiming import Retiming
from tag_lightning.guidance.rewards import Reward
from tag_lightning.guidance.spherical import DSG
from tag_lightning.guidance.strengths import (
    ConstantStrength,
    Evidence,
    NoiseProportionalStrength,
    PolyakStrength,
    Strength,
)
from tag_lightning.guidance.tag import TemporalAlignment, TemporalAlignmentAfterStep
from tag_lightning.guidance.tangential import TangentialGuidance
from tag_lightning.guidance.tfg import TFG
from tag_lightning.guidance.time_correction import TimeCorrection
from tag_lightning.guidance.time_shift import TimeShift
from tag_lightning.guidance.timestep_contrast import SelfGuidance, TimestepGuidance
from tag_lightning.guidance.tracked_noise import TrackedNoise
from tag_lightning.guidance.trust_region import FixedLengthSteps, TrustRegion
from tag_lightning.guidance.ugd import UGD
from tag_lightning.guidance.wavelet_noise import WaveletNoise
from tag_lightning.guidance.wrapper import GuidanceWrapper

__all__ = [
    "APG",
    "CFG",
    "DPS",
    "DSG",
    "GFCG",
    "LGD",
    "MPGD",
    "TFG",
    "UGD",
    "AdapterGuidance",
    "AdaptiveGuidance",
    "AdaptiveLengthSteps",
    "AdaptiveMoments",
    "AlignedMoves",
    "AutoGuidance",
    "CFGPlusPlus",
    "CFGZeroStar",
    "CalibratedNoise",
    "ClassifierFreeNoiseAwareness",
    "ClassifierGuidance",
    "Condition",
    "ConditionEvaluator",
    "ConditionedGuidance",
    "ConstantStrength",
    "Corruption",
    "DiscriminatorEvaluator",
    "Drift",
    "DynamicCFG",
    "EluCD",
    "EpsilonScaling",
    "Evaluator",
    "Evidence",
    "FixedLengthSteps",
    "FreeDoM",
    "Guidance",
    "GuidanceWrapper",
    "Hinge",
    "JointCondition",
    "KnownNoise",
    "LangevinCorrector",
    "LevelAlignment",
    "MoreRedAS",
    "MoreRedITP",
    "MoreRedJT",
    "NoiseAwarenessGuidance",
    "NoiseLevel",
    "NoiseLevelCorrection",
    "NoiseProportionalStrength",
    "PatchNoise",
    "PolyakStrength",
    "PosteriorNoise",
    "PredictedNoise",
    "ProximalAlignment",
    "Quantisation",
    "REDDiff",
    "RLGuidance",
    "Range",
    "RegressedNoise",
    "ResidualDPS",
    "Retiming",
    "Reward",
    "SelfGuidance",
    "SquaredError",
    "Strength",
    "TangentialGuidance",
    "TemporalAlignment",
    "TemporalAlignmentAfterStep",
    "TimeCorrection",
    "TimeEvaluator",
    "TimeShift",
    "TimestepGuidance",
    "TrackedNoise",
    "TrustRegion",
    "WaveletNoise",
    "residual_norm",
]
