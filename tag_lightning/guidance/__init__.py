"""Guidance of the reverse process, one idea per file, without data sets or Lightning."""

from tag_lightning.diffusion import Guidance
from tag_lightning.guidance.conditions import (
    Condition,
    ConditionedGuidance,
    JointCondition,
    SquaredError,
    residual_norm,
)
from tag_lightning.guidance.corruption import Corruption, Drift
from tag_lightning.guidance.strengths import (
    ConstantStrength,
    Evidence,
    NoiseProportionalStrength,
    PolyakStrength,
    Strength,
)
from tag_lightning.guidance.tag import TemporalAlignment, TemporalAlignmentAfterStep
from tag_lightning.guidance.training_free import DPS

__all__ = [
    "DPS",
    "Condition",
    "ConditionedGuidance",
    "ConstantStrength",
    "Corruption",
    "Drift",
    "Evidence",
    "Guidance",
    "JointCondition",
    "NoiseProportionalStrength",
    "PolyakStrength",
    "SquaredError",
    "Strength",
    "TemporalAlignment",
    "TemporalAlignmentAfterStep",
    "residual_norm",
]
