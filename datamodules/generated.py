"""Images that a denoiser generates: training data for a model whose own are out of reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tag_lightning.datamodules.base import Split
from tag_lightning.datamodules.drawn_chunks import BOUNDS, chunk_folder, drawn_chunks, image_denoiser
from tag_lightning.datamodules.images import ImageDataModule
from tag_lightning.datamodules.tables import ImageTable, select
from tag_lightning.diffusion import DDIM, ImageSpace, Sampler
from tag_lightning.pretrained import load_pretrained


class GeneratedDataModule(ImageDataModule):
    """Unguided samples of a denoiser of images, for time predictors of models whose training data are not at hand.

    The images are drawn once, in chunks that are kept as they are finished, so that drawing goes on where it was
    interrupted. They depend on the denoiser's weights, ``sampling_seed``, the settings of the sampler and the kind of
    device alone: a GPU draws other noise than the CPU, so each has its own. The splits hold 80 / 10 / 10 % of them.

    Args:
        denoiser: A shipped network's name, a folder, or a checkpoint.
        num_images: Images drawn, at least 20.
        num_steps: Reverse steps of DDIM.
        eta: Noise of DDIM, in [0, 1].
        sampling_seed: Seed of the images.
        shape: ``[C, H, W]`` of an image; None asks the network's configuration (``in_channels``, ``sample_size``).
        classifier: Labels the images: a shipped network's name, a folder, or a checkpoint. Its most likely class is the
            attribute ``label``. None leaves them without attributes.
        chunk_size: Images drawn at once.
        cache: Folder of the drawn images.
        accelerator: Device that draws, ``cpu`` or ``cuda``; None takes a GPU if there is one.
        **kwargs: Arguments of ``ImageDataModule``.

    Raises:
        ValueError: If a number is out of range, the network is not a denoiser, or its shape is not known.
    """

    def __init__(
        self,
        denoiser: str,
        num_images: int = 10_000,
        num_steps: int = 50,
        eta: float = 1.0,
        sampling_seed: int = 0,
        shape: list[int] | None = None,
        classifier: str | None = None,
        chunk_size: int = 256,
        cache: str = "data/generated",
        accelerator: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        least_values = (("num_images", num_images, 20), ("num_steps", num_steps, 1), ("chunk_size", chunk_size, 1))
        for name, value, least in least_values:
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}; set data.init_args.{name}")
        self.denoiser = denoiser
        self.num_images = num_images
        self.num_steps = num_steps
        self.solver = DDIM(eta)
        self.sampling_seed = sampling_seed
        self.shape = None if shape is None else tuple(shape)
        self.classifier = classifier
        self.chunk_size = chunk_size
        self.cache = Path(cache)
        self.device = torch.device(accelerator or ("cuda" if torch.cuda.is_available() else "cpu"))

    def prepare_data(self) -> None:
        """Draw the images that are not in the cache yet."""
        self._chunks()

    def load(self, split: Split) -> ImageTable:
        chunks = self._chunks()
        images = torch.cat([chunk["images"] for chunk in chunks])
        attributes = {}
        self.num_classes = {}
        if self.classifier is not None:
            labels = torch.cat([chunk["labels"] for chunk in chunks])
            attributes["label"], self.num_classes["label"] = labels, self._num_labels
        first, last = (round(len(images) * share) for share in BOUNDS[split])
        return select(ImageTable(images, attributes), torch.arange(first, last))

    def _chunks(self) -> list[dict[str, Tensor]]:
        denoiser, shape = image_denoiser(self.denoiser, self.shape)
        classifier = None if self.classifier is None else load_pretrained(self.classifier).network
        self._num_labels = int(getattr(classifier, "num_classes", 0))
        read_as = f"{denoiser.prediction_type} {denoiser.clip_range}"
        settings = f"{self.num_steps} {self.solver.eta} {self.sampling_seed} {shape} {read_as}"
        networks = [network for network in (denoiser, classifier) if network is not None]
        folder = chunk_folder(self.cache, settings, self.device, *networks)
        sampler = Sampler(denoiser.to(self.device), self.solver, self.num_steps)

        def draw(indices: range) -> dict[str, Tensor]:
            x = sampler.sample(ImageSpace(shape, indices, self.device), self.sampling_seed).cpu()
            chunk = {"images": ((x + 1) * 127.5).round().byte()}
            if classifier is not None:
                with torch.no_grad():
                    chunk["labels"] = classifier.eval()(chunk["images"] / 127.5 - 1).argmax(1)
            return chunk

        title = f"drawing {self.num_images} images"
        return drawn_chunks(folder, self.num_images, self.chunk_size, draw, title)
