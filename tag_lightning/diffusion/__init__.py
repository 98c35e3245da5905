"""The diffusion process and its one reverse loop, without data sets, metrics or Lightning."""

from tag_lightning.diffusion.denoiser import Denoiser, Prediction
from tag_lightning.diffusion.finite import NonFiniteError, require_finite
from tag_lightning.diffusion.hooks import Guidance, Predict
from tag_lightning.diffusion.sampler import Observer, Sampler
from tag_lightning.diffusion.schedules import CosineSchedule, LinearSchedule, NoiseSchedule, PolynomialSchedule
from tag_lightning.diffusion.solvers import DDIM, Solver
from tag_lightning.diffusion.spaces import ImageSpace, PointCloudSpace, SampleNoise, Space, centred
from tag_lightning.diffusion.steps import Step, Transition

__all__ = [
    "DDIM",
    "CosineSchedule",
    "Denoiser",
    "Guidance",
    "ImageSpace",
    "LinearSchedule",
    "NoiseSchedule",
    "NonFiniteError",
    "Observer",
    "PointCloudSpace",
    "PolynomialSchedule",
    "Predict",
    "Prediction",
    "SampleNoise",
    "Sampler",
    "Solver",
    "Space",
    "Step",
    "Transition",
    "centred",
    "require_finite",
]
