"""Networks that diffusers lacks: time predictors, classifiers, networks for molecules and audio."""

from tag_lightning.networks.autoencoder import image_autoencoder
from tag_lightning.networks.classifier import ImageClassifier
from tag_lightning.networks.clip_rewards import AestheticScore, CLIPScore, StyleReward
from tag_lightning.networks.egnn import EGNNDenoiser
from tag_lightning.networks.egnn_predictors import (
    EGNNNoiseLevel,
    EGNNPropertyPredictor,
    EGNNTimePredictor,
    PropertyPredictor,
)
from tag_lightning.networks.folded_unet import FoldedUNet
from tag_lightning.networks.guidance_adapters import AdaptedUNet
from tag_lightning.networks.hub_classifier import HubClassifier
from tag_lightning.networks.hue import Hue
from tag_lightning.networks.ink import Ink
from tag_lightning.networks.megnet import MEGNetJudge
from tag_lightning.networks.mixture import MixtureDenoiser
from tag_lightning.networks.noise_experts import NoiseExperts
from tag_lightning.networks.noise_level import NoiseLevelCNN
from tag_lightning.networks.openai_unet import OpenAIUNet
from tag_lightning.networks.pixel_classifier import CIFARResNet, PixelClassifier
from tag_lightning.networks.simple_cnn import SimpleCNN
from tag_lightning.networks.time_predictor import MLPTimePredictor, TimePredictor
from tag_lightning.networks.unet_encoder import UNetEncoder
from tag_lightning.networks.waveform import SpectrogramClassifier, WaveformCNN, WaveformUNet

__all__ = [
    "AdaptedUNet",
    "AestheticScore",
    "CIFARResNet",
    "CLIPScore",
    "EGNNDenoiser",
    "EGNNNoiseLevel",
    "EGNNPropertyPredictor",
    "EGNNTimePredictor",
    "FoldedUNet",
    "HubClassifier",
    "Hue",
    "ImageClassifier",
    "Ink",
    "MEGNetJudge",
    "MLPTimePredictor",
    "MixtureDenoiser",
    "NoiseExperts",
    "NoiseLevelCNN",
    "OpenAIUNet",
    "PixelClassifier",
    "PropertyPredictor",
    "SimpleCNN",
    "SpectrogramClassifier",
    "StyleReward",
    "TimePredictor",
    "UNetEncoder",
    "WaveformCNN",
    "WaveformUNet",
    "image_autoencoder",
]
