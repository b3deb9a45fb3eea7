"""The choice of an index, worked by hand from bytes."""

import pytest

from pipeline.search.choosing import IndexSettings, cells, choose, index_bytes

MB = 1 << 20
AUTO = IndexSettings(memory_mb=1)


@pytest.mark.parametrize(
    ("vectors", "kind", "code_bytes", "size"),
    [
        (1024, "flat", 1024, 1024 * 1024),  # 512 halves each: a megabyte to the byte
        # 512 bytes, twice 32 links of 4 bytes, 4 bytes of links above, 12 to find them, 8 of id
        (1025, "hnsw", 512, 1025 * (512 + 256 + 4 + 12 + 8)),
        (1323, "hnsw", 512, 1323 * 792),  # 1324 * 792 is more than a megabyte
        # 512 bytes and an id of 8; 1324 // 39 = 33 centres of 512 floats
        (1324, "ivf-sq8", 512, 1324 * 520 + 33 * 2048),
        # With codes of 256 bytes it would be 1,108,944 bytes: 47 centres, 256 entries of a book
        (1850, "ivf-pq", 128, 1850 * 136 + (47 + 256) * 2048),
    ],
)
def test_the_first_that_fits_a_megabyte(
    vectors: int, kind: str, code_bytes: int, size: int
) -> None:
    choice = choose(vectors, vectors, 512, AUTO)
    assert (choice.kind, choice.code_bytes, choice.bytes) == (kind, code_bytes, size)
    assert f"{vectors:,} vectors of 512 as {kind}" in choice.reason
    assert "index.memory_mb 1" in choice.reason


def test_where_nothing_fits_the_smallest_is_taken_and_told() -> None:
    choice = choose(10**6, 10**6, 512, AUTO)
    assert (choice.kind, choice.code_bytes) == ("ivf-pq", 1)
    assert "no smaller one" in choice.reason
    assert choice.bytes > MB


def test_images_that_are_gone_weigh_on_exact_search_alone() -> None:
    assert choose(1025, 900, 512, AUTO).bytes == 900 * 792
    assert choose(1024, 900, 512, AUTO).kind == "flat"


def test_what_is_asked_for_is_built_if_it_can_be() -> None:
    assert choose(10**6, 10**6, 512, IndexSettings("flat", 1)).kind == "flat"
    assert choose(1000, 1000, 512, IndexSettings("hnsw", 1024)).kind == "hnsw"
    longest = choose(1000, 1000, 512, IndexSettings("ivf-pq", 1024))
    assert (longest.kind, longest.code_bytes) == ("ivf-pq", 256)
    few = choose(255, 255, 512, IndexSettings("ivf-pq", 1024))
    assert few.kind == "flat"
    assert "fewer than 256" in few.reason


def test_codes_divide_the_vector_into_equal_pieces() -> None:
    for dimension in (512, 640, 768, 90, 7, 2):
        choice = choose(2000, 2000, dimension, IndexSettings("ivf-pq", 1))
        assert dimension % choice.code_bytes == 0


def test_cells_grow_with_the_square_root_and_stay_trainable() -> None:
    assert cells(10**6, 64) == 4000
    assert cells(1000, 512) == 25  # 39 vectors each
    # A quarter of a gigabyte of vectors of 512 is 131,072; each cell wants 39.
    assert cells(10**8, 512) == 3360
    assert index_bytes("ivf-pq", 64, 10**8, 512) == 10**8 * 72 + (3360 + 256) * 2048
