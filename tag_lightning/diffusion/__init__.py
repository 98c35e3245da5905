"""The diffusion process and its one reverse loop, without data sets, metrics or Lightning."""

from tag_lightning.diffusion.conditioning import CONDITION_KEY, Conditioning
from tag_lightning.diffusion.counter_noise import CounterNoise
from tag_lightning.diffusion.denoiser import (
    NULL_TIMESTEP_KEY,
    PREDICTION_KEY,
    Denoiser,
    Prediction,
    PredictionType,
    prediction_target,
    require_prediction_type,
    trained_prediction_type,
)
from tag_lightning.diffusion.device_transfer import on_device
from tag_lightning.diffusion.guidance import Guidance, Predict, Run
from tag_lightning.diffusion.latents import Autoencoder, LatentSpace
from tag_lightning.diffusion.reverse_process import (
    DeferredChecks,
    NonFiniteError,
    Proposal,
    Recurrence,
    Step,
    per_sample,
)
from tag_lightning.diffusion.sample_noise import SampleNoise
from tag_lightning.diffusion.sampler import Observer, Sampler
from tag_lightning.diffusion.schedules import CosineSchedule, LinearSchedule, NoiseSchedule, PolynomialSchedule
from tag_lightning.diffusion.solvers import DDIM, DPMSolverPlusPlus, DPMSolverPlusPlusSDE, Solver
from tag_lightning.diffusion.spaces import BoxSpace, ImageSpace, PointCloudSpace, Space, centred

__all__ = [
    "CONDITION_KEY",
    "DDIM",
    "NULL_TIMESTEP_KEY",
    "PREDICTION_KEY",
    "Autoencoder",
    "BoxSpace",
    "Conditioning",
    "CosineSchedule",
    "CounterNoise",
    "DPMSolverPlusPlus",
    "DPMSolverPlusPlusSDE",
    "DeferredChecks",
    "Denoiser",
    "Guidance",
    "ImageSpace",
    "LatentSpace",
    "LinearSchedule",
    "NoiseSchedule",
    "NonFiniteError",
    "Observer",
    "PointCloudSpace",
    "PolynomialSchedule",
    "Predict",
    "Prediction",
    "PredictionType",
    "Proposal",
    "Recurrence",
    "Run",
    "SampleNoise",
    "Sampler",
    "Solver",
    "Space",
    "Step",
    "centred",
    "on_device",
    "per_sample",
    "prediction_target",
    "require_prediction_type",
    "trained_prediction_type",
]
