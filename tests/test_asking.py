"""Images named on the command line: which files are meant, and what is no picture."""

import os
from pathlib import Path

import numpy as np
import pytest

from flows.asking import files_of, vectors_of_files
from pipeline.clip.encoder import Encoder
from pipeline.errors import InputError
from pipeline.images.decoding import Picture, decode
from tests.conftest import DATA, demo_config

KIWIS = DATA / "images/food/kiwi"


def test_folders_are_expanded_and_named_files_come_once(tmp_path: Path) -> None:
    one = KIWIS / "kiwi-01.jpg"
    files = files_of([one, KIWIS])
    assert next(iter(files)) == str(one)
    assert sorted(files) == sorted(str(path) for path in KIWIS.iterdir())
    assert [name for name, named in files.items() if named] == [str(one)]


@pytest.mark.parametrize("name", ["gone.jpg", ""])
def test_what_is_not_there_is_told_before_a_model_is_loaded(name: str, tmp_path: Path) -> None:
    says = r"gone\.jpg: cannot be read" if name else "no files in it"
    with pytest.raises(InputError, match=says):
        files_of([tmp_path / name])


def test_a_pipe_and_a_device_that_never_ends_are_told_unread(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for endless in (tmp_path / "pipe.jpg", Path("/dev/zero")):
        with pytest.raises(InputError, match=f"{endless}: is no file but a device or a pipe"):
            files_of([endless])


def test_files_become_the_vectors_that_the_encoder_makes_one_by_one(
    tiny: Encoder, tmp_path: Path
) -> None:
    paths = sorted(KIWIS.iterdir())[:3]
    folder = tmp_path / "drop"
    folder.mkdir()
    for path in paths:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "notes.txt").write_text("no picture")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    asked = vectors_of_files(demo_config(tmp_path / "store"), files_of([folder]))
    assert [Path(name).name for name in asked.names] == [path.name for path in paths]
    assert sorted(Path(name).name for name in asked.refused) == ["broken.jpg", "notes.txt"]
    for row, path in zip(asked.vectors, paths, strict=True):
        seen = decode(path.read_bytes(), path.name, tiny.fit, max_pixels=10**8)
        assert isinstance(seen, Picture)
        assert row @ tiny.encode_images(seen.pixels[None].copy())[0] > 0.999
    assert np.linalg.norm(asked.vectors, axis=1) == pytest.approx(np.ones(3), abs=1e-4)


def test_a_file_that_the_user_named_must_be_a_picture(tmp_path: Path) -> None:
    file = tmp_path / "broken.jpg"
    file.write_bytes(b"\xff\xd8 no more")
    with pytest.raises(InputError, match=r"broken\.jpg: "):
        vectors_of_files(demo_config(tmp_path / "store"), files_of([file]))
    with pytest.raises(InputError, match=r"none of the 1 files is a picture: .*broken\.jpg"):
        vectors_of_files(demo_config(tmp_path / "store"), files_of([tmp_path]))
