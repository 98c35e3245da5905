"""Images as the latents of an autoencoder."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from tag_lightning.datamodules.base import Split, TableDataModule
from tag_lightning.datamodules.batch import Batch
from tag_lightning.diffusion import Autoencoder
from tag_lightning.networks.trial_run import require_accepts
from tag_lightning.pretrained import load_pretrained


class LatentDataModule(TableDataModule):
    """Images of another data module whose batches reach the networks as latents, for denoisers and time predictors.

    Batches are encoded on the device of the training, after they were transferred there. Tables, splits and the real
    data of metrics remain images: ``ImageTask`` and ``RestorationTask`` then sample in the latent space of the same
    autoencoder, and guides, judges and pictures see what it decodes.

    Args:
        images: The images; batch size, workers and seed are those given here.
        autoencoder: A shipped one's name, a folder of diffusers' ``AutoencoderKL`` (``vae`` in a pipeline's folder), a
            checkpoint, ``hf://owner/name``, or the network.
        batch_size: Images per batch and process.
        **kwargs: Arguments of ``TableDataModule``.

    Attributes:
        images: The data module of the images.
    """

    def __init__(
        self, images: TableDataModule, autoencoder: str | nn.Module, batch_size: int = 128, **kwargs: Any
    ) -> None:
        super().__init__(batch_size, **kwargs)
        self.images = images
        self._source = autoencoder

    @cached_property
    def autoencoder(self) -> Autoencoder:
        """The frozen autoencoder, loaded once.

        Raises:
            ValueError: If the network is not an autoencoder.
            FileNotFoundError: If there is none of that name.
        """
        given = self._source
        network = load_pretrained(given).network if isinstance(given, str) else given.eval().requires_grad_(False)
        name = given if isinstance(given, str) else type(given).__name__
        try:
            autoencoder = Autoencoder(network)
        except ValueError as error:
            raise ValueError(f"data.init_args.autoencoder {name}: {error}") from error
        return autoencoder

    @property
    def network_arguments(self) -> dict[str, Any]:
        """As for the images, with the size and the channels of their latents."""
        known = self.images.network_arguments
        if not {"in_channels", "sample_size"} <= known.keys():
            return {name: value for name, value in known.items() if name == "num_classes"}
        size = known["sample_size"]
        channels, height, _ = self._encoded_shape((known["in_channels"], size, size))
        return known | {"sample_size": height, "in_channels": channels, "out_channels": channels}

    @property
    def example(self) -> Batch:
        """A batch of one sample as networks are given it: latents."""
        batch = self.images.example
        self._encoded_shape(tuple(batch.x.shape[1:]))
        return self._encoded(batch)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape ``(c, h, w)`` of a latent."""
        return self._encoded_shape(self.images.sample_shape)

    def prepare_data(self) -> None:
        self.images.prepare_data()

    def build(self, split: Split) -> Dataset:
        table = self.images.table(split)
        self.num_classes = self.images.num_classes
        return table

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Encode a batch of images; called by Lightning on the device of the training."""
        if not isinstance(batch, Batch):
            return batch
        self.autoencoder.to(batch.x.device)
        return self._encoded(batch)

    def _encoded(self, batch: Batch) -> Batch:
        device = self.autoencoder.scale.device
        return batch._replace(x=self.autoencoder.encode(batch.x.to(device)).to(batch.x.device))

    def _encoded_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        require_accepts(self.autoencoder, shape, "data.init_args.autoencoder")
        zeros = torch.zeros(1, *shape).to(self.autoencoder.scale)
        return tuple(self.autoencoder.encode(zeros).shape[1:])
