"""Metrics of generated samples and of time predictors, the same on any number of processes."""

from tag_lightning.metrics.accuracy import Accuracy, agrees
from tag_lightning.metrics.audio import SISDR, SNR, LogSpectralDistance
from tag_lightning.metrics.chemnet_distance import FCD
from tag_lightning.metrics.conjunction import Conjunction
from tag_lightning.metrics.damage_detection import damage_detection
from tag_lightning.metrics.features import (
    FeatureChoice,
    FeatureExtractor,
    InceptionFeatures,
    JudgeFeatures,
    PixelFeatures,
    find_inception_weights,
    to_uint8,
)
from tag_lightning.metrics.frechet import FID, FrechetDistance
from tag_lightning.metrics.frechet_audio import FAD
from tag_lightning.metrics.inception_score import InceptionScore
from tag_lightning.metrics.kernel_distance import KID
from tag_lightning.metrics.mean import Mean
from tag_lightning.metrics.molecule_quality import MoleculeQuality, molecule_quality
from tag_lightning.metrics.perceptual_distance import LPIPS
from tag_lightning.metrics.physics import PhysicsError
from tag_lightning.metrics.precision_recall import PrecisionRecall
from tag_lightning.metrics.property_error import PropertyError
from tag_lightning.metrics.quantity_error import QuantityError
from tag_lightning.metrics.restoration import PSNR, SSIM
from tag_lightning.metrics.reward import MeanReward
from tag_lightning.metrics.rows_by_index import RowsByIndex
from tag_lightning.metrics.sample_metric import SampleMetric
from tag_lightning.metrics.time_gap import NLLQuantiles, TimeCalibration, TimeGap, TypicalNLL, time_gap
from tag_lightning.metrics.wasserstein import Wasserstein

__all__ = [
    "FAD",
    "FCD",
    "FID",
    "KID",
    "LPIPS",
    "PSNR",
    "SISDR",
    "SNR",
    "SSIM",
    "Accuracy",
    "Conjunction",
    "FeatureChoice",
    "FeatureExtractor",
    "FrechetDistance",
    "InceptionFeatures",
    "InceptionScore",
    "JudgeFeatures",
    "LogSpectralDistance",
    "Mean",
    "MeanReward",
    "MoleculeQuality",
    "NLLQuantiles",
    "PhysicsError",
    "PixelFeatures",
    "PrecisionRecall",
    "PropertyError",
    "QuantityError",
    "RowsByIndex",
    "SampleMetric",
    "TimeCalibration",
    "TimeGap",
    "TypicalNLL",
    "Wasserstein",
    "agrees",
    "damage_detection",
    "find_inception_weights",
    "molecule_quality",
    "time_gap",
    "to_uint8",
]
