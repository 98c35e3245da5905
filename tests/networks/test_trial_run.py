import pytest
import torch
from diffusers import UNet1DModel, UNet2DModel

from tag_lightning.networks import ImageClassifier, SimpleCNN
from tag_lightning.networks.trial_run import require_accepts


def small_unet(channels: int) -> UNet2DModel:
    return UNet2DModel(
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=(8, 8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3,
    )


def test_networks_that_fit_are_accepted_and_left_in_their_mode() -> None:
    for network, arguments in (
        (SimpleCNN(8, 1, 10, (8,)), ()),
        (ImageClassifier(1, widths=(8,)).train(), ()),
        (small_unet(1).eval(), (torch.tensor([0]),)),
    ):
        training = network.training
        require_accepts(network, (1, 8, 8), "the network", *arguments)
        assert network.training == training


def test_the_wrong_number_of_channels_is_explained() -> None:
    with pytest.raises(
        ValueError, match=r"the guide \(ImageClassifier\) cannot take samples of shape \[1, 8, 8\]"
    ) as found:
        require_accepts(ImageClassifier(3, widths=(8,)), (1, 8, 8), "the guide")
    assert "it was built for 3 channels, so set in_channels or the data's channels" in str(found.value)


def test_images_that_cannot_be_halved_are_explained() -> None:
    with pytest.raises(ValueError, match="halves the image 2 times, so height and width must be multiples of 4"):
        require_accepts(small_unet(1), (1, 10, 10), "the denoiser", torch.tensor([0]))


def test_another_misfit_points_at_the_sizes() -> None:
    with pytest.raises(ValueError, match="make the sizes of the network and of the data agree"):
        require_accepts(SimpleCNN(8, 1, 10, (8,)), (1, 16, 16), "the time predictor")


def test_waveforms_that_cannot_be_halved_are_explained() -> None:
    blocks = {"down_block_types": ("DownResnetBlock1D",) * 3, "up_block_types": ("UpResnetBlock1D",) * 2}
    settings = {"mid_block_type": "MidResTemporalBlock1D", "out_block_type": "OutConv1DBlock", "act_fn": "mish"}
    network = UNet1DModel(
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8, 8),
        time_embedding_type="positional",
        use_timestep_embedding=True,
        **blocks,
        **settings,
    )
    with pytest.raises(ValueError, match="halves the sample 2 times, so its length must be a multiple of 4"):
        require_accepts(network, (1, 10), "the denoiser", torch.tensor([0]))
