"""Fitting compared, pixel by pixel, with the transforms that open_clip itself makes."""

import pickle
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torchvision.transforms import Compose, GaussianBlur, Grayscale, ToTensor

from pipeline.clip.encoder import fitting_of
from pipeline.clip.loading import LoadedModel
from pipeline.errors import InputError
from pipeline.images.fitting import Fitting
from tests.conftest import ROOT

# Width and height: tiny, odd, of the model's own size, and bands as long as we let them be.
SHAPES = [(1, 1), (2, 3), (50, 31), (63, 64), (64, 64), (65, 64), (97, 61), (61, 97), (333, 500)]
SHAPES += [
    (500, 333),
    (1023, 767),
    (64, 4096),
    (4096, 64),
    (20, 1280),
    (1280, 20),
    (7, 5),
    (225, 2),
]


def noise(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(width * 10_000 + height)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def loaded(cfg: dict[str, Any], transform: object = None) -> LoadedModel:
    """A model of this preprocessing, as open_clip loads it, without the model."""
    made = transform or image_transform_v2(PreprocessCfg(**cfg), is_train=False)
    model = SimpleNamespace(visual=SimpleNamespace(preprocess_cfg=cfg))
    return LoadedModel("some-clip", model, made, None)


def before_the_tensor(transform: Compose, image: Image.Image) -> Image.Image:
    for step in transform.transforms:
        if isinstance(step, ToTensor):
            break
        image = step(image)
    return image


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [64, (64, 64), [64, 64], (48, 80), (80, 48), 65])
def test_every_picture_is_fitted_as_open_clip_does(
    size: Any, resize_mode: str, interpolation: str
) -> None:
    cfg = {"size": size, "resize_mode": resize_mode, "interpolation": interpolation}
    model = loaded({**cfg, "fill_color": 77})
    fitting = pickle.loads(pickle.dumps(fitting_of(model)))
    for shape in SHAPES:
        image = noise(*shape)
        before = image.tobytes()
        try:
            expected = before_the_tensor(model.transform, image)
        except ValueError:  # open_clip scales a band's short side to nothing
            assert resize_mode == "longest"
            assert max(shape) > 64 * min(shape)
            assert fitting(image).size == fitting.size[::-1]
            continue
        assert fitting(image).size == expected.size, shape
        assert fitting(image).tobytes() == expected.tobytes(), shape
        assert image.tobytes() == before


def test_a_fitting_by_hand() -> None:
    image = Image.new("RGB", (4, 2))
    image.putdata([(n, n, n) for n in range(8)])  # 0 1 2 3 over 4 5 6 7

    def grey(fitting: Fitting) -> list[list[int]]:
        rows: list[list[int]] = np.array(fitting(image))[:, :, 0].tolist()
        return rows

    assert grey(Fitting((2, 2))) == [[1, 2], [5, 6]]
    assert grey(Fitting((2, 4), "squash")) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    padded = [[9] * 4, [0, 1, 2, 3], [4, 5, 6, 7], [9] * 4]
    assert grey(Fitting((4, 4), "longest", fill=9)) == padded
    assert grey(Fitting((1, 2), "squash", "nearest")) == [[5, 7]]


@pytest.mark.parametrize("step", [Grayscale(3), GaussianBlur(3)])
def test_a_step_that_we_cannot_do_is_told_when_the_model_is_loaded(step: object) -> None:
    cfg = {"size": 64}
    steps = image_transform_v2(PreprocessCfg(**cfg), is_train=False).transforms
    for place in (0, 1):
        odd = Compose([*steps[:place], step, *steps[place:]])
        with pytest.raises(
            InputError, match=f"model some-clip: its preproc.*{type(step).__name__}"
        ):
            fitting_of(loaded(cfg, odd))


@pytest.mark.parametrize(
    ("says", "does"),
    [
        ({"size": 64, "resize_mode": "shortest"}, {"size": 64, "resize_mode": "squash"}),
        ({"size": 64, "resize_mode": "shortest"}, {"size": 64, "resize_mode": "longest"}),
        ({"size": 64}, {"size": 63}),
        ({"size": 64}, {"size": 64, "interpolation": "bilinear"}),
        (
            {"size": 64, "resize_mode": "longest"},
            {"size": 64, "resize_mode": "longest", "fill_color": 5},
        ),
    ],
)
def test_a_model_whose_config_and_transform_differ_is_refused(
    says: dict[str, Any], does: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match="cannot be reproduced"):
        fitting_of(loaded(says, image_transform_v2(PreprocessCfg(**does), is_train=False)))


def test_every_published_preprocessing_of_open_clip_can_be_done() -> None:
    kinds = {
        (open_clip.get_pretrained_cfg(*pair).get("resize_mode"), cfg.get("interpolation"))
        for pair in open_clip.list_pretrained()
        if (cfg := open_clip.get_pretrained_cfg(*pair))
    }
    assert len(kinds) > 1
    for resize_mode, interpolation in kinds:
        asked = {"resize_mode": resize_mode, "interpolation": interpolation}
        cfg = {"size": 224, **{name: value for name, value in asked.items() if value}}
        fitting_of(loaded(cfg))


def test_fitting_needs_no_torch() -> None:
    code = "import sys, pipeline.images.serving; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert run.stdout == b"False\n"
