import numpy as np
import pytest
import torch
from problems import random_vectors
from scipy.special import log_softmax
from torch import Tensor, nn

from tag_lightning.guidance import Condition, JointCondition, residual_norm


def test_the_default_is_the_log_probability_of_the_label() -> None:
    logits, labels = random_vectors(5, 4, scale=3), torch.tensor([0, 3, 1, 2, 0])
    measured = Condition(nn.Identity(), labels).log_likelihood(logits)
    expected = log_softmax(logits.numpy(), axis=1)[np.arange(5), labels]
    np.testing.assert_allclose(measured, expected, rtol=1e-12)


def test_residual_norm_is_the_distance_of_whole_images() -> None:
    output, target = random_vectors(4, 3, 5, 5), random_vectors(4, 3, 5, 5, seed=1)
    expected = [np.linalg.norm((output[i] - target[i]).numpy().ravel()) for i in range(4)]
    np.testing.assert_allclose(residual_norm(output, target), expected, rtol=1e-12)


def test_residuals_of_another_shape_are_refused_rather_than_broadcast() -> None:
    with pytest.raises(ValueError, match=r"the operator gives \[2, 3, 4, 4\], but the measurement is \[2, 3, 1, 1\]"):
        residual_norm(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 1, 1))


def test_inputs_of_the_space_reach_every_predictor() -> None:
    class Scaled(nn.Module):
        def forward(self, x0: Tensor, mask: Tensor) -> Tensor:
            return x0 * mask

    x0, target, mask = random_vectors(3, 2), torch.zeros(3, 2), torch.tensor([[1.0], [0.5], [0.0]])
    condition = Condition(Scaled(), target, residual_norm)
    torch.testing.assert_close(condition.log_likelihood(x0, mask=mask), -(x0 * mask).norm(dim=1))
    joint = JointCondition([condition, condition])
    torch.testing.assert_close(joint.log_likelihood(x0, mask=mask), -2 * (x0 * mask).norm(dim=1))


def test_a_condition_keeps_the_target_it_was_given() -> None:
    target = torch.zeros(2, 2)
    condition = Condition(nn.Identity(), target, residual_norm)
    target += 1
    assert condition.log_likelihood(torch.zeros(2, 2)).tolist() == [0, 0]
