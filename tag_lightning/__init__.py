"""Train and evaluate Temporal Alignment Guidance (TAG) for guided diffusion, on PyTorch Lightning."""

__version__ = "0.1.0"
