import pytest
import torch
import torch_fidelity.feature_extractor_inceptionv3 as fidelity
from torch import nn

from tag_lightning.metrics import InceptionFeatures, JudgeFeatures, find_inception_weights, to_uint8
from tag_lightning.metrics.features import INCEPTION_FILE, INCEPTION_URL


class Judge(nn.Module):
    num_features = 4

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 4)
        self.drop = nn.Dropout(0.5)

    def features(self, x):
        return self.drop(self.layer(x.flatten(1)))


class Intruder:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory):
    """An Inception file with random weights, made without the network or the download."""
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fidelity, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = fidelity.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    torch.save(network.state_dict(), path)
    return path


def test_judge_features_are_those_of_evaluation(generator):
    network = Judge().train()
    images = torch.rand(3, 3, 2, 2, generator=generator)
    judge = JudgeFeatures(network)
    features = judge(images)
    assert torch.equal(features, network.layer(images.flatten(1)).double())
    assert (features.dtype, features.requires_grad) == (torch.float64, False)
    assert (judge.name, judge.num_features) == ("judge", 4)
    assert network.training
    assert network.layer.weight.requires_grad


def test_a_judge_without_features_is_refused():
    with pytest.raises(TypeError, match="Linear has no features and no num_features"):
        JudgeFeatures(nn.Linear(2, 2))


def test_bytes_are_rounded_to_nearest_and_clipped():
    levels = torch.arange(256)
    images = levels / 127.5 - 1
    assert torch.equal(to_uint8(images), levels.to(torch.uint8))
    assert torch.equal(to_uint8(images + 0.49 / 127.5), levels.to(torch.uint8))
    assert to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]
    assert to_uint8(torch.tensor([0.5], dtype=torch.bfloat16)).tolist() == [191]


def test_bytes_of_nan_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        to_uint8(torch.tensor([float("nan")]))


def test_weights_are_looked_for_where_torch_keeps_them(hub):
    assert find_inception_weights() is None
    (hub / INCEPTION_FILE).touch()
    assert find_inception_weights() == hub / INCEPTION_FILE


def test_missing_weights_are_named_and_never_fetched(hub, monkeypatch):
    monkeypatch.setattr(fidelity, "load_state_dict_from_url", lambda *_, **__: pytest.fail("download"))
    with pytest.raises(FileNotFoundError) as error:
        InceptionFeatures()
    assert INCEPTION_FILE in str(error.value)
    assert str(hub) in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"elsewhere\.pth"):
        InceptionFeatures(hub / "elsewhere.pth")
    assert fidelity.URL_INCEPTION_V3 == INCEPTION_URL


def test_files_that_could_execute_code_are_not_loaded(tmp_path, capsys):
    path = tmp_path / "intruder.pth"
    torch.save({"weight": Intruder()}, path)
    with pytest.raises(ValueError, match="more than tensors"):
        InceptionFeatures(path)
    path.write_bytes(b"not a weight file")
    with pytest.raises(ValueError, match="damaged"):
        InceptionFeatures(path)
    assert "executed" not in capsys.readouterr().out


def test_inception_sees_bytes_and_grey_as_rgb(random_weights, generator):
    extractor = InceptionFeatures(random_weights).train()
    assert not extractor.network.training
    grey = torch.rand(2, 1, 8, 8, generator=generator) * 2 - 1
    features = extractor(grey)
    assert (list(features.shape), features.dtype) == ([2, extractor.num_features], torch.float64)
    (expected,) = extractor.network(((grey + 1) * 127.5).round().byte().repeat(1, 3, 1, 1))
    assert torch.equal(features, expected.double())
    with pytest.raises(ValueError, match=r"\[2, 2, 8, 8\]"):
        extractor(torch.zeros(2, 2, 8, 8))
