"""Content of an attention figure, read back from the figure."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from distillkit.evaluation import Sight, as_png, draw_attention
from distillkit.evaluation.attention_figure import DPI


def sight(name="student deit-ti", *, layers=(0, 1, 2), heads=2, grid=(2, 3), size=(16, 24), seed=0):
    draw = np.random.default_rng(seed)
    rows = draw.dirichlet(np.ones(1 + grid[0] * grid[1]), size=(len(layers), heads)).astype(np.float32)
    return Sight(name, draw.random((*size, 3), np.float32), rows, layers, grid)


def drawn(figure, colours):
    """Pixels and matplotlib images of everything drawn with a colour map, except the scales."""
    images = [(np.asarray(image.get_array()), image) for image in figure.axes[0].images]
    return [(array, image) for array, image in images if image.cmap.name == colours and array.shape != (256, 1)]


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_the_maps_are_the_patch_entries_of_the_mean_row():
    teacher, student = sight("teacher dino", heads=3, grid=(4, 6), seed=1), sight(layers=(3, 7, 11))
    maps = [array for array, _ in drawn(draw_attention([teacher, student], title="cat"), "inferno")]
    expected = [
        sum(model.rows[layer, head, 1:] for head in range(heads)).reshape(model.grid) / heads
        for model, heads in ((teacher, 3), (student, 2))
        for layer in range(3)
    ]
    assert [array.shape for array in maps] == [(4, 6)] * 3 + [(2, 3)] * 3
    for array, wanted in zip(maps, expected, strict=True):
        np.testing.assert_allclose(array, wanted, rtol=1e-6)


def test_each_head_has_its_own_row():
    model = sight(layers=(0, 5))
    figure = draw_attention([model], title="cat", heads="each")
    maps = [array.ravel() for array, _ in drawn(figure, "inferno")]
    np.testing.assert_array_equal(maps, [model.rows[layer, head, 1:] for head in (0, 1) for layer in (0, 1)])
    assert [text for text in texts(figure) if text.startswith("head ")] == ["head 0", "head 1"]


def test_a_row_has_one_scale_from_0_to_its_maximum_which_is_labelled():
    rows = np.array([[[0.5, 0.4, 0.1]], [[0.25, 0.25, 0.5]]], np.float32)
    other = np.array([[[0.96, 0.03, 0.01]]], np.float32)
    image = np.zeros((8, 16, 3), np.float32)
    figure = draw_attention(
        [Sight("teacher a", image, rows, (0, 1), (1, 2)), Sight("student b", image, other, (0,), (1, 2))], title="x"
    )
    limits = [image.get_clim() for _, image in drawn(figure, "inferno")]
    assert limits == [(0, 0.5), (0, 0.5), (0, pytest.approx(0.03))]
    written = texts(figure)
    assert written[:15] == [
        "x",
        "teacher a: 1 head, 1 x 2 patches, image 8 x 16 pixels",
        "image",
        "layer 0",
        "CLS 50 %",
        "layer 1",
        "CLS 25 %",
        "50 %",
        "0",
        "student b: 1 head, 1 x 2 patches, image 8 x 16 pixels",
        "image",
        "layer 0",
        "CLS 96 %",
        "3.0 %",
        "0",
    ]
    assert " ".join(written[15:]) == (
        "Colour: share of the class token's attention that goes to a patch, mean over heads; each row has its own "
        "scale, from 0 to its maximum. CLS: share that goes to the class token itself. Patches are not smoothed "
        "(nearest)."
    )


def test_panels_have_the_aspect_ratio_of_the_image_and_maps_cover_it():
    figure = draw_attention([sight(size=(16, 24)), sight(size=(60, 20), grid=(6, 2))], title="x")
    images = [image.get_extent() for image in figure.axes[0].images if image.get_array().ndim == 3]
    maps = [image.get_extent() for _, image in drawn(figure, "inferno")]
    behind = [image.get_extent() for array, image in drawn(figure, "gray") if array.size > 1]
    assert maps == behind
    for extents, ratio in ((images[:1] + maps[:3], 24 / 16), (images[1:] + maps[3:], 20 / 60)):
        for left, right, bottom, top in extents:
            assert (right - left) / (bottom - top) == pytest.approx(ratio)


def test_the_image_is_drawn_unchanged():
    model = sight()
    figure = draw_attention([model], title="x")
    shown = [np.asarray(image.get_array()) for image in figure.axes[0].images if image.get_array().ndim == 3]
    np.testing.assert_array_equal(shown, [model.pixels])


CASES = {
    "twelve layers, two models": [sight(f"{role} vit", layers=tuple(range(12))) for role in ("teacher", "student")],
    "one layer": [sight(layers=(11,))],
    "one layer, upright": [sight(layers=(11,), size=(96, 32), grid=(6, 2))],
    "broad above upright": [sight(size=(32, 96)), sight(size=(96, 32))],
    "long names": [sight(f"teacher run:{'a-folder/' * 30}run", layers=(0,))],
}


@pytest.mark.parametrize("heads", ["mean", "each"])
@pytest.mark.parametrize("sights", CASES.values(), ids=CASES)
def test_no_text_overlaps_or_leaves_the_page(sights, heads):
    figure = draw_attention(sights, title="an image with a long name/" * 9, heads=heads)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in figure.axes[0].texts]
    panels = [image.get_window_extent(canvas.get_renderer()) for image in figure.axes[0].images]
    width, height = canvas.get_width_height()
    for number, box in enumerate(boxes):
        assert box.x0 >= 0, texts(figure)[number]
        assert box.y0 >= 0, texts(figure)[number]
        assert box.x1 <= width, texts(figure)[number]
        assert box.y1 <= height, texts(figure)[number]
        assert not any(box.overlaps(other) for other in [*boxes[:number], *panels]), texts(figure)[number]


def test_a_title_with_dollars_is_not_parsed_as_a_formula():
    assert texts(draw_attention([sight()], title="$x_1$"))[0] == "$x_1$"


def test_equal_figures_give_equal_files():
    first, second = (as_png(draw_attention([sight()], title="x")) for _ in range(2))
    assert first == second
    assert first.startswith(b"\x89PNG")


def test_the_scale_shows_the_colours_of_the_maps():
    """Over mid grey, the largest entry and the upper end of the scale have the same colour."""
    image = np.full((8, 16, 3), 0.5, np.float32)
    rows = np.array([[[0.5, 0.5, 0.0]]], np.float32)
    figure = draw_attention([Sight("b", image, rows, (0,), (1, 2))], title="x")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]

    def colour(image, across, down):
        left, right, bottom, top = (round(DPI * edge) for edge in image.get_extent())
        return pixels[top + int(down * (bottom - top)), left + int(across * (right - left))].astype(int)

    on_map, scale = figure.axes[0].images[-3], figure.axes[0].images[-1]
    assert np.abs(colour(on_map, 0.25, 0.5) - colour(scale, 0.5, 0.0)).max() < 12
    assert np.abs(colour(on_map, 0.75, 0.5) - colour(scale, 0.5, 0.98)).max() < 12
