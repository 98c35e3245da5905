"""Classifiers of Hugging Face: their preprocessing, their groups of classes, and the configurations that name them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_runs import SIZE, TIMESTEPS, TinyNetworks, random_images

from tag_lightning.cli import main
from tag_lightning.config_files import config_file, merged_with_bases
from tag_lightning.evaluation.image_targets import ClassTarget
from tag_lightning.networks import HubClassifier

transformers = pytest.importorskip("transformers")


def write_classifier(folder: Path, classes: int = 5, **processor: Any) -> str:
    """Save a random vision transformer of 16x16 images."""
    part = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    with torch.random.fork_rng():
        torch.manual_seed(classes)
        config = transformers.ViTConfig(image_size=16, patch_size=8, num_labels=classes, **part)
        transformers.ViTForImageClassification(config).save_pretrained(folder)
    settings = {"size": {"height": 16, "width": 16}, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    kind = {"image_processor_type": "ViTImageProcessor", "do_resize": True, "do_normalize": True, "do_rescale": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(kind | settings | processor))
    return str(folder)


def test_images_are_seen_as_its_own_processor_shows_them(tmp_path: Path) -> None:
    source = write_classifier(tmp_path)
    classifier, x = HubClassifier(source), torch.rand(3, 3, 24, 24) * 2 - 1
    processor = transformers.AutoImageProcessor.from_pretrained(source)
    seen = processor((x + 1) / 2, do_rescale=False, return_tensors="pt")["pixel_values"]
    model = transformers.AutoModelForImageClassification.from_pretrained(source)
    torch.testing.assert_close(classifier(x), model(seen).logits, atol=1e-4, rtol=1e-4)
    assert (classifier.num_classes, classifier.num_features) == (5, 8)
    assert classifier.features(x).shape == (3, 8)


def test_the_centre_is_cropped_if_the_processor_crops(tmp_path: Path) -> None:
    crop = {"do_center_crop": True, "crop_size": {"height": 16, "width": 16}, "size": {"shortest_edge": 20}}
    source = write_classifier(tmp_path, **crop, image_processor_type="DeiTImageProcessor", resample=2)
    classifier, x = HubClassifier(source), torch.rand(2, 3, 20, 20) * 2 - 1
    model = transformers.AutoModelForImageClassification.from_pretrained(source)
    mean, std = (torch.tensor(v)[:, None, None] for v in ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]))
    centre = ((x[..., 2:-2, 2:-2] + 1) / 2 - mean) / std
    torch.testing.assert_close(classifier(x), model(centre).logits, atol=1e-4, rtol=1e-4)


def test_groups_of_classes_have_their_mean_probability(tmp_path: Path) -> None:
    source, x = write_classifier(tmp_path), torch.rand(2, 3, 16, 16) * 2 - 1
    grouped = HubClassifier(source, groups=[(3, 4), (0, 2), (3, None)])
    p = HubClassifier(source)(x).softmax(1)
    expected = torch.stack((p[:, 3], p[:, :2].mean(1), p[:, 3:].mean(1)), 1)
    torch.testing.assert_close(grouped(x).exp(), expected)
    assert grouped.num_classes == 3
    x.requires_grad_()
    grouped(x)[:, 0].sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    source = write_classifier(tmp_path / "fine")
    for groups in ([], [(5, None)], [(2, 2)]):
        with pytest.raises(ValueError, match="groups must be ranges of the 5 classes of"):
            HubClassifier(source, groups=groups)
    odd = write_classifier(tmp_path / "odd", size={"height": 16, "width": 8})
    with pytest.raises(ValueError, match="does not resize images to squares of a fixed size"):
        HubClassifier(odd)
    with pytest.raises(ValueError, match=r"cannot load an image classifier from .*hf download .*give that folder") as e:
        HubClassifier(str(tmp_path / "none"))
    assert "\n" not in str(e.value)


class _Data:
    num_classes = {"label": 2}  # noqa: RUF012 - never changed
    example = None


def test_an_attribute_that_the_data_lack_has_the_classes_that_are_given() -> None:
    assert ClassTarget(classes=3).for_data("age", _Data()).values(range(4), 0).tolist() == [0, 1, 2, 0]
    with pytest.raises(ValueError, match="attribute is 'age', but the data have label"):
        ClassTarget().for_data("age", _Data())
    with pytest.raises(ValueError, match="classes is 3, but the data have 2 of 'label'; leave it out"):
        ClassTarget(classes=3).for_data("label", _Data())


def _with_local(settings: Any, root: Path, labels: dict[str, int]) -> Any:
    """The settings with tiny classifiers in place of those of the Hub."""
    if isinstance(settings, dict) and "source" in settings:
        name = settings["source"].removeprefix("hf://")
        folder = root / name.replace("/", "_")
        return settings | {"source": write_classifier(folder, labels.get(name, 2))}
    if isinstance(settings, dict):
        return {name: _with_local(value, root, labels) for name, value in settings.items()}
    return settings


LABELS = {
    **dict.fromkeys(("google/vit-base-patch16-224", "facebook/deit-small-patch16-224"), 4),
    **{"nateraw/vit-age-classifier": 9, "ibombonato/swin-age-classifier": 8},
    **{"enzostvs/hair-color": 5, "londe33/hair_v02": 4},
}


@pytest.mark.parametrize(
    ("config", "classes", "figures"),
    [
        ("imagenet/time_predictor", 4, set()),
        ("celebahq/gender_age", 2, {"accuracy_age", "accuracy_all"}),
        ("celebahq/gender_hair", 2, {"accuracy_hair", "accuracy_all"}),
    ],
)
def test_the_public_set_ups_guide_and_judge(
    config: str, classes: int, figures: set[str], tmp_path: Path, tiny: TinyNetworks
) -> None:
    """On images of noise, with tiny random classifiers, features of pixels and a denoiser of 8x8 images."""
    data = random_images(tmp_path / "data")
    for folder in [f for f in data.glob("*/class_*") if int(f.name[-1]) >= classes]:
        shutil.rmtree(folder)
    task = merged_with_bases(config_file(config))["sampling"]["task"]
    task = _with_local(task, tmp_path, LABELS)
    for metric in task["init_args"]["metrics"]:
        metric["init_args"]["features"] = "pixels"
    task["init_args"] |= {"features": "pixels"} | ({"labels": [1, 3]} if classes == 4 else {})
    (tmp_path / "layer.yaml").write_text(yaml.safe_dump({"sampling": {"task": task}}))
    network = "--model.init_args.network.init_args"
    main(
        [
            *("validate", f"--config={config}", f"--config={tmp_path / 'layer.yaml'}", "--ckpt_path=untrained"),
            *(f"--data.root={data}", f"--data.size={SIZE}", "--data.batch_size=4", "--data.num_workers=0"),
            *(f"{network}.sample_size={SIZE}", f"{network}.num_timesteps={TIMESTEPS}", f"{network}.widths=[8,8]"),
            *("--model.schedule=LinearSchedule", f"--model.schedule.num_timesteps={TIMESTEPS}"),
            f"--sampling.denoiser={tiny.root / 'denoiser'}",
            f"--sampling.predictor={tiny.root / 'predictor'}",
            *("--sampling.num_samples=6", "--sampling.num_steps=3", "--trainer.accelerator=cpu"),
            f"--trainer.default_root_dir={tmp_path / 'run'}",
        ]
    )
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {"unguided", "dps", "dps+tag", "tfg", "tfg+tag"} <= results["arms"].keys()
    for arm in results["arms"].values():
        assert {"accuracy", *figures} <= arm.keys()
