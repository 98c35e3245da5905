"""What is measured on samples and predictors, as torchmetrics that agree on any number of processes."""

from tag_lightning.metrics.features import (
    FeatureExtractor,
    InceptionFeatures,
    JudgeFeatures,
    find_inception_weights,
    to_uint8,
)
from tag_lightning.metrics.frechet import FrechetDistance
from tag_lightning.metrics.gather import RowsByIndex
from tag_lightning.metrics.molecules import molecule_quality
from tag_lightning.metrics.physics import PhysicsJudge
from tag_lightning.metrics.time_gap import TimeCalibration, TimeGap, TypicalNLL, time_gap

__all__ = [
    "FeatureExtractor",
    "FrechetDistance",
    "InceptionFeatures",
    "JudgeFeatures",
    "PhysicsJudge",
    "RowsByIndex",
    "TimeCalibration",
    "TimeGap",
    "TypicalNLL",
    "find_inception_weights",
    "molecule_quality",
    "time_gap",
    "to_uint8",
]
