import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from tag_lightning.evaluation.figures import (
    FrontierLine,
    comparison_strip,
    figure_pixels,
    frontier_curves,
    line_style,
    quiver_2d,
    sample_grid,
    save_png,
    scatter_2d,
    time_gap_curves,
)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def cloud(generator):
    return torch.randn(40, 2, generator=generator)


def panels(figure):
    return [axes for axes in figure.axes if axes.has_data() or axes.images]


@pytest.mark.parametrize(
    ("shape", "columns", "size"),
    [
        ((6, 1, 8, 8), 3, (2 * 50 + 2, 3 * 50 + 2)),
        ((5, 3, 32, 32), None, (2 * 66 + 2, 3 * 66 + 2)),
        ((4, 3, 64, 96), 4, (66 + 2, 4 * 98 + 2)),
        ((2, 1, 10, 100), 1, (2 * 52 + 2, 504)),
    ],
)
def test_grids_have_room_for_every_image(shape, columns, size, generator):
    grid = sample_grid(torch.rand(shape, generator=generator) * 2 - 1, columns)
    assert (tuple(grid.shape), grid.dtype) == ((3, *size), torch.uint8)


def test_pixels_of_a_grid_are_those_of_the_image():
    image = torch.tensor([[-1.0, 1.0], [0.0, 5.0]])[None, None]
    grid = sample_grid(image)
    assert grid.shape == (3, 48, 48)
    assert torch.equal(grid[0, ::24, ::24], torch.tensor([[0, 255], [128, 255]], dtype=torch.uint8))
    assert torch.equal(grid, grid[:, ::24, ::24].repeat_interleave(24, 1).repeat_interleave(24, 2))


@pytest.mark.parametrize("shape", [(3, 8, 8), (0, 1, 8, 8), (2, 2, 8, 8)])
def test_grids_of_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="1 or 3"):
        sample_grid(torch.zeros(shape))


def test_a_png_holds_the_picture(tmp_path, generator):
    grid = sample_grid(torch.rand(4, 3, 8, 8, generator=generator))
    path = tmp_path / "new" / "grid.png"
    save_png(grid, path)
    assert np.array_equal(np.asarray(Image.open(path)), grid.permute(1, 2, 0).numpy())


def test_a_figure_becomes_the_same_pixels_in_a_file(tmp_path, cloud):
    figure = scatter_2d({"a": cloud}, cloud)
    pixels = figure_pixels(figure)
    assert (pixels.shape[0], pixels.dtype) == (3, torch.uint8)
    save_png(figure, tmp_path / "figure.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "figure.png")), pixels.permute(1, 2, 0).numpy())


def test_time_gap_curves_leave_nan_out_and_sort():
    figure = time_gap_curves({"dps": ([900, 0, 500], [3.0, math.nan, 2.0]), "tag": (torch.arange(3), torch.ones(3))})
    (axes,) = figure.axes
    assert [line.get_xydata().tolist() for line in axes.lines] == [
        [[500, 2], [900, 3]],
        [[0, 1], [1, 1], [2, 1]],
    ]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["dps", "tag"]
    assert "timestep" in axes.get_xlabel()
    assert "training timesteps" in axes.get_ylabel()


@pytest.mark.parametrize(("gaps", "scale"), [([2.0, 30.0], "linear"), ([0.0, 300.0], "symlog")])
def test_wide_ranges_get_a_logarithmic_axis(gaps, scale):
    (axes,) = time_gap_curves({"a": ([0, 1], gaps)}).axes
    assert axes.get_yscale() == scale
    assert axes.get_ylim()[0] == 0


@pytest.mark.parametrize("curves", [{}, {"a": ([0, 1], [math.nan, math.nan])}])
def test_curves_without_a_value_are_drawn_empty(curves):
    assert figure_pixels(time_gap_curves(curves)).ndim == 3


def test_many_curves_stay_apart():
    curves = {f"arm {i}": ([0, 1], [i, i + 1]) for i in range(7)}
    (axes,) = time_gap_curves(curves).axes
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 7
    more = {f"arm {i}": ([0, 1], [i, i + 1]) for i in range(20)}
    assert len(time_gap_curves(more).axes[0].lines) == 20


def test_scatter_has_a_panel_for_every_set_on_the_same_axes(cloud):
    figure = scatter_2d({"without": cloud, "with": 2 * cloud}, cloud.numpy())
    assert [axes.get_title() for axes in panels(figure)] == ["without", "with"]
    assert len({axes.get_xlim() for axes in panels(figure)}) == 1
    assert figure_pixels(figure).float().std() > 0


def test_quiver_shows_direction_and_length(cloud):
    figure = quiver_2d(cloud, torch.cat([cloud[:-1] * 3, torch.zeros(1, 2)]), background=cloud)
    arrows = figure.axes[0].collections[-1]
    assert np.allclose(arrows.get_array(), [*(cloud[:-1] * 3).norm(dim=1).tolist(), 0])
    assert np.allclose(np.hypot(arrows.U, arrows.V), [1] * (len(cloud) - 1) + [0])
    assert figure_pixels(figure).ndim == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scatter_2d({}, torch.zeros(2, 2)), "at least one"),
        (lambda: scatter_2d({"a": torch.zeros(2, 3)}, torch.zeros(2, 2)), r"a must be points.*\[2, 3\]"),
        (lambda: quiver_2d(torch.zeros(2, 2), torch.zeros(3, 2)), "same shape"),
        (lambda: comparison_strip({}), "at least one"),
    ],
)
def test_impossible_pictures_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("count", [1, 3, 6])
def test_strip_shows_every_arm_under_its_name(count, generator):
    grids = {f"arm {i}": sample_grid(torch.rand(4, 1, 8, 8, generator=generator)) for i in range(count)}
    figure = comparison_strip(grids)
    assert [axes.get_title() for axes in panels(figure)] == list(grids)
    for axes, grid in zip(panels(figure), grids.values(), strict=True):
        assert np.array_equal(axes.images[0].get_array(), grid.permute(1, 2, 0).numpy())
    assert figure_pixels(figure).ndim == 3


def test_a_strip_of_wide_grids_stays_readable():
    wide = {f"arm {i}": torch.zeros(3, 66, 392, dtype=torch.uint8) for i in range(9)}
    _, height, width = figure_pixels(comparison_strip(wide)).shape
    assert width < 2400
    assert width / height < 5


def test_curves_of_a_large_comparison_look_different():
    looks = [line_style(index) for index in range(49)]
    assert len({(look["color"], look["marker"]) for look in looks}) == 49  # a single point has no line to tell it by


@pytest.mark.parametrize("span", [(77, 180), (12, 14), (2, 90), (0.5, 700)])
def test_a_logarithmic_axis_has_a_few_numbers(span):
    curve = FrontierLine(np.array([0.1, 0.9]), *(np.array(span, float),) * 3)
    figure = frontier_curves({"dps": curve}, "accuracy", "FID", lower_x_is_better=False)
    figure_pixels(figure)
    axis = figure.axes[0].yaxis
    low, high = axis.get_view_interval()
    shown = [place for place in axis.get_majorticklocs() if low <= place <= high]
    assert 3 <= len(shown) <= 12
    assert not len(axis.get_minorticklocs())


@pytest.mark.slow
def test_drawing_leaves_pyplot_alone():
    program = (
        "import sys, torch; from tag_lightning.evaluation.figures import *; "
        "figure_pixels(scatter_2d({'a': torch.zeros(2, 2)}, torch.zeros(2, 2))); "
        "pyplot = sys.modules.get('matplotlib.pyplot'); "
        "assert pyplot is None or not pyplot.get_fignums()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_names_of_a_sweep_stand_beside_its_curves(recwarn):
    figure = time_gap_curves({f"fixed length+tag kappa={k}": ([0, 1], [k, k]) for k in range(41)})
    figure_pixels(figure)
    assert not recwarn.list  # a layout that fails warns
    (axes,) = figure.axes
    (legend,) = figure.legends
    assert axes.get_window_extent().x1 <= legend.get_window_extent().x0
    assert legend.get_window_extent().height <= figure.bbox.height


def test_a_frontier_is_better_below_and_to_the_right():
    line = FrontierLine(np.array([2.0, 1.0]), np.array([5.0, 9.0]), *np.array([[4, 8], [6, 10]]))
    alone = FrontierLine(np.array([1.5]), np.array([3.0]), np.array([3.0]), np.array([3.0]))
    (axes,) = frontier_curves({"dps": line, "rule": alone}, "mae_mu", "FID", lower_x_is_better=True).axes
    assert axes.xaxis_inverted()
    assert axes.get_yscale() == "log"
    assert [drawn.get_linestyle() for drawn in axes.lines] == ["-", "None"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["dps", "rule"]
    assert not frontier_curves({"dps": line}, "accuracy", "FID", lower_x_is_better=False).axes[0].xaxis_inverted()
