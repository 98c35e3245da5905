"""Invalid settings by class: mistakes in a configuration, or in a call."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

NAN, INF = math.nan, math.inf
DPS = {"class": "DPS"}


class WrongSetting(NamedTuple):
    """A class, its arguments, and a piece of the message that must name the mistake.

    Attributes:
        name: Public class.
        arguments: Arguments of its constructor; a dictionary with ``class`` stands for an object of that class.
        named: Piece of the message.
    """

    name: str
    arguments: dict[str, Any]
    named: str


def _each(name: str, argument: str, values: list[Any], **others: Any) -> list[WrongSetting]:
    return [WrongSetting(name, others | {argument: value}, argument) for value in values]


SETTINGS: list[WrongSetting] = [
    # guidance
    *_each("DPS", "scale", [-1.0, NAN, INF]),
    *_each("DPS", "clip", [-1.0, NAN]),
    *_each("DPS", "start", [-5]),
    WrongSetting("DPS", {"start": 3, "stop": 10}, "start"),
    *_each("ResidualDPS", "scale", [-1.0]),
    *_each("DSG", "weight", [-0.1, 1.1, NAN]),
    *_each("DSG", "every", [0]),
    *_each("LGD", "num_draws", [0, -3]),
    *_each("LGD", "gamma", [-1.0, NAN]),
    *_each("MPGD", "num_iterations", [0]),
    *_each("MPGD", "mu_schedule", ["sideways"]),
    *_each("TFG", "gamma_schedule", ["increase"]),
    *_each("TFG", "rho", [-1.0, NAN]),
    *_each("TFG", "mu", [-1.0]),
    *_each("TFG", "gamma", [-1.0]),
    *_each("TFG", "num_draws", [0]),
    *_each("TFG", "num_iterations", [-1]),
    *_each("TFG", "recurrence", [0]),
    *_each("TFG", "rho_schedule", ["up"]),
    *_each("UGD", "scale", [-2.0]),
    *_each("UGD", "recurrence", [0]),
    *_each("FreeDoM", "scale", [-2.0]),
    *_each("FreeDoM", "recurrence", [0]),
    *_each("ClassifierGuidance", "scale", [-1.0, NAN]),
    *_each("GFCG", "guidance_scale", [-1.0, NAN]),
    *_each("DynamicCFG", "scales", [[], [1.0, -1.0], [INF]]),
    WrongSetting("DynamicCFG", {"evaluators": []}, "evaluator"),
    WrongSetting("DynamicCFG", {"evaluators": [DPS]}, "gives no scores"),
    *_each("DynamicCFG", "weights", [[1.0, 1.0], [0.0], [NAN]]),
    *_each("AdapterGuidance", "guidance_scale", [-1.0, NAN, INF]),
    *_each("Corruption", "sigma", [-0.1, NAN, INF]),
    *_each("Drift", "rate", [NAN, INF]),
    *_each("EpsilonScaling", "scale", [0.0, -1.0, NAN]),
    *_each("EpsilonScaling", "slope", [NAN]),
    *_each("LangevinCorrector", "snr", [-0.1, NAN]),
    *_each("LangevinCorrector", "num_corrections", [0]),
    *_each("SelfGuidance", "guidance_scale", [-1.0, INF]),
    *_each("SelfGuidance", "shift", [-1]),
    *_each("TimestepGuidance", "spread", [-1.0]),
    *_each("NoiseAwarenessGuidance", "guidance_scale", [-1.0]),
    *_each("ClassifierFreeNoiseAwareness", "guidance_scale", [NAN]),
    *_each("TangentialGuidance", "scale", [0.5, NAN]),
    *_each("TimeShift", "window", [-1]),
    *_each("TimeShift", "data_variance", [-1.0, INF]),
    *_each("TrustRegion", "kappa", [0.0, -1.0, NAN], guidance=DPS),
    WrongSetting("TrustRegion", {"guidance": {"class": "Corruption", "sigma": 0.1}}, "cannot wrap Corruption"),
    *_each("FixedLengthSteps", "kappa", [0.0], guidance=DPS),
    *_each("AdaptiveLengthSteps", "kappa", [0.0], guidance=DPS),
    *_each("AdaptiveLengthSteps", "rate", [-1.0, NAN, INF], guidance=DPS),
    *_each("AdaptiveLengthSteps", "growth", [1.0, -1.0, NAN, INF], guidance=DPS),
    *_each("AdaptiveLengthSteps", "max_kappa", [0.0, -1.0, NAN, INF], guidance=DPS),
    *_each("AdaptiveMoments", "beta1", [-0.1, 1.0], guidance=DPS),
    *_each("AdaptiveMoments", "beta2", [1.5], guidance=DPS),
    *_each("AdaptiveMoments", "delta", [0.0], guidance=DPS),
    *_each("ProximalAlignment", "halvings", [-1], guidance=DPS),
    *_each("TemporalAlignment", "strength", [-1.0, NAN, INF]),
    *_each("ConstantStrength", "omega", [-1.0, NAN]),
    *_each("NoiseProportionalStrength", "omega_0", [-1.0, INF]),
    *_each("PolyakStrength", "cap", [-0.1, NAN]),
    *_each("PolyakStrength", "quantile", [0.0, 1.0]),
    *_each("KnownNoise", "sigma", [-1.0]),
    *_each("PredictedNoise", "rounds", [0]),
    *_each("PatchNoise", "patch_size", [1]),
    *_each("PosteriorNoise", "rounds", [0]),
    *_each("Quantisation", "bits", [0, 9]),
    *_each("PosteriorNoise", "damping", [0.0, 1.5]),
    *_each("TrackedNoise", "drift", [0.0], level={"class": "KnownNoise", "sigma": 0.1}),
    WrongSetting("JointCondition", {"conditions": []}, "needs at least one condition"),
    WrongSetting("Range", {}, "at_least"),
    WrongSetting("Range", {"at_least": 3.0, "at_most": 1.0}, "at_least"),
    # diffusion
    *_each("DDIM", "eta", [-0.1, 1.1, NAN]),
    *_each("LinearSchedule", "num_timesteps", [0, -5]),
    WrongSetting("LinearSchedule", {"beta_start": 0.0}, "strictly between 0 and 1"),
    WrongSetting("LinearSchedule", {"beta_end": 1.5}, "strictly between 0 and 1"),
    WrongSetting("LinearSchedule", {"beta_start": NAN}, "strictly between 0 and 1"),
    *_each("CosineSchedule", "num_timesteps", [0]),
    WrongSetting("CosineSchedule", {"max_beta": 1.0}, "strictly between 0 and 1"),
    *_each("PolynomialSchedule", "num_timesteps", [0]),
    WrongSetting("PolynomialSchedule", {"precision": 0.5}, "must decrease"),
    WrongSetting("PolynomialSchedule", {"power": 0.0}, "strictly between 0 and 1"),
    WrongSetting("NoiseSchedule", {"alphas_cumprod": torch.zeros(0)}, "must be a vector [T]"),
    WrongSetting("NoiseSchedule", {"alphas_cumprod": torch.full((3, 3), 0.5)}, "must be a vector [T]"),
    WrongSetting("NoiseSchedule", {"alphas_cumprod": torch.tensor([0.5, 0.9])}, "must decrease"),
    WrongSetting("NoiseSchedule", {"alphas_cumprod": torch.tensor([0.9, NAN])}, "strictly between 0 and 1"),
    WrongSetting("NoiseSchedule", {"alphas_cumprod": torch.tensor([0.9, 0.0])}, "strictly between 0 and 1"),
    WrongSetting("Recurrence", {"passes": 0}, "recurrence must be at least 1"),
    WrongSetting("PointCloudSpace", {"sizes": [0], "num_features": 1, "indices": [0]}, "sizes in 1"),
    WrongSetting("PointCloudSpace", {"sizes": [3, 4], "num_features": 1, "indices": [0]}, "as many sizes"),
    # data
    *_each("DigitsDataModule", "size", [0, -4]),
    *_each("DigitsDataModule", "batch_size", [0]),
    *_each("DigitsDataModule", "num_workers", [-1]),
    *_each("CIFAR10DataModule", "batch_size", [-1]),
    *_each("ImageFolderDataModule", "size", [0], root="."),
    *_each("SyntheticAudioDataModule", "sample_rate", [0, 300]),
    *_each("SyntheticAudioDataModule", "length", [1]),
    *_each("SyntheticAudioDataModule", "num_clips", [0, 19]),
    *_each("SyntheticAudioDataModule", "batch_size", [0]),
    *_each("AudioFolderDataModule", "sample_rate", [0], root="sounds"),
    *_each("AudioFolderDataModule", "length", [0], root="sounds"),
    *_each("WarmUpStableDecay", "warm_up_steps", [0], optimizer=None, total_steps=9),
    *_each("WarmUpStableDecay", "decay_share", [-0.1, NAN], optimizer=None, total_steps=9),
    *_each("FoldedUNet", "fold", [0]),
    *_each("FoldedUNet", "block_out_channels", [[], [96, 100]]),
    *_each("WaveformUNet", "fold", [0]),
    *_each("WaveformUNet", "block_out_channels", [[8], [8, 12]]),
    *_each("WaveformCNN", "widths", [[]]),
    *_each("MixtureDataModule", "num_points", [3]),
    *_each("MixtureDataModule", "centre", [NAN]),
    *_each("SmallMoleculesDataModule", "max_atoms", [0, -1]),
    *_each("SmallMoleculesDataModule", "max_heavy_atoms", [0]),
    *_each("SmallMoleculesDataModule", "elements", [["H", "H"], []]),
    WrongSetting("SmallMoleculesDataModule", {"elements": ["Xx"]}, "'Xx' is not an element"),
    *_each("SmallMoleculesDataModule", "properties", [["alpha", "alpha"]]),
    *_each("SmallMoleculesDataModule", "feature_scale", [0.0, -1.0, NAN]),
    *_each("SmallMoleculesDataModule", "charge_scale", [0.0, INF]),
    WrongSetting("QM9DataModule", {"properties": ["magic"]}, "magic"),
    WrongSetting("QM9DataModule", {"test_molecules": "nowhere.npz"}, "nowhere.npz does not exist"),
    *_each("MoleculeFilesDataModule", "max_molecules", [0], path="a.csv"),
    *_each("GuidedTrajectoriesDataModule", "num_trajectories", [19], denoiser="digits/conditional_denoiser"),
    *_each("GuidedTrajectoriesDataModule", "min_scale", [-1.0, NAN, 7.0], denoiser="digits/conditional_denoiser"),
    # measurements and metrics
    *_each("GaussianBlur", "std", [0.0, -1.0, NAN]),
    *_each("GaussianBlur", "noise", [-0.1, NAN]),
    *_each("SuperResolution", "factor", [0, -2]),
    *_each("Inpainting", "missing", [-0.1, 1.0, NAN]),
    *_each("MissingIntervals", "missing", [-0.1, 1.0, NAN]),
    *_each("MissingIntervals", "count", [0, -1]),
    *_each("Clipping", "limit", [0.0, 1.0, -0.2, NAN]),
    *_each("Clipping", "noise", [-0.1, NAN]),
    *_each("FID", "first", [0, 1]),
    *_each("KID", "block_size", [0, 1]),
    *_each("PrecisionRecall", "neighborhood", [0]),
    # callbacks
    *_each("AdaptiveGradientClipping", "window", [1]),
    *_each("AdaptiveGradientClipping", "first", [0.0]),
    *_each("WarmedUpEMA", "decay", [-0.1, 1.0, NAN]),
    *_each("GuidedSampling", "num_samples", [0, 1]),
    *_each("GuidedSampling", "chunk_size", [0]),
    *_each("GuidedSampling", "num_steps", [0]),
    *_each("GuidedSampling", "every_n_epochs", [0]),
    *_each("GuidedSampling", "num_shown", [-1]),
    *_each("GuidedSampling", "seed", [-1]),
    *_each("PlainProgress", "every_seconds", [-1.0, NAN]),
    *_each("ExpertDistillationModule", "temperature", [0.0, NAN, INF]),
    *_each("ExpertDistillationModule", "num_experts", [0, 1001]),
    *_each("ExpertDistillationModule", "noise_draws", [0]),
    WrongSetting("ExpertDistillationModule", {"base": "molecules/guide"}, "made on an ImageClassifier"),
    *_each("Reward", "weight", [NAN, INF], reward=torch.nn.Identity()),
    *_each("GeneratedDataModule", "num_images", [0], denoiser="digits/denoiser"),
    *_each("GeneratedDataModule", "num_steps", [0], denoiser="digits/denoiser"),
    *_each("GuidanceDistillationModule", "width", [0, 3]),
    # networks
    *_each("SimpleCNN", "num_timesteps", [0]),
    *_each("SimpleCNN", "sample_size", [0, 3]),
    *_each("SimpleCNN", "widths", [[]]),
    *_each("ImageClassifier", "num_classes", [0]),
    *_each("EGNNDenoiser", "num_blocks", [-1]),
    *_each("EGNNDenoiser", "width", [0]),
    *_each("EGNNPropertyPredictor", "properties", [[], ["alpha", "mu", "alpha"]]),
]
