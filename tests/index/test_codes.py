"""Codebooks and codes as arrays: packing, decoding and pairs against FAISS and by hand."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from mecoq_faiss.index import build_index, pair_codebooks
from mecoq_faiss.index.codes import (
    CODE_BLOCK,
    NORM_TOLERANCE,
    check_codebooks,
    check_codes,
    code_blocks,
    decode_codes,
    pack_codes,
    unpack_codes,
)
from tests.index.truth import arrays


@pytest.mark.parametrize("K", [16, 2])
def test_pairs_stand_for_the_same_vectors(K):
    codebooks, codes, _ = arrays(1001, 6, K)
    pairs, paired = pair_codebooks(codebooks, codes)
    assert pairs.shape == (3, K * K, 12)
    np.testing.assert_array_equal(decode_codes(pairs, paired), decode_codes(codebooks, codes))
    if K == 16:
        np.testing.assert_array_equal(paired, faiss.pack_bitstrings(codes, 4))
    with pytest.raises(ValueError, match="even M"):
        pair_codebooks(codebooks[:3], codes[:, :3])


@pytest.mark.parametrize("nbits", range(1, 9))
@pytest.mark.parametrize("M", [1, 3, 8])
def test_packing_is_that_of_faiss(nbits, M):
    codes = np.random.default_rng(nbits).integers(0, 1 << nbits, (77, M), dtype=np.uint8)
    packed = pack_codes(codes, nbits)
    np.testing.assert_array_equal(packed, faiss.pack_bitstrings(codes, nbits))
    np.testing.assert_array_equal(unpack_codes(packed, M, nbits), codes)


def test_decoding_is_that_of_faiss():
    codebooks, codes, _ = arrays(1001, 3, 256)
    np.testing.assert_array_equal(build_index(codebooks, codes).reconstruct_n(0, 1001), decode_codes(codebooks, codes))


def test_packed_bits_by_hand():
    codes = np.uint8([[1, 2, 3]])
    assert pack_codes(codes, 4).tolist() == [[0x21, 0x03]]  # the first code in the low half of the first byte
    assert pack_codes(codes, 2).tolist() == [[0b11_10_01]]
    assert pack_codes(codes, 8).tolist() == [[1, 2, 3]]


def test_codes_of_a_memory_map_come_in_blocks(tmp_path):
    np.save(tmp_path / "codes.npy", np.arange(14, dtype=np.uint8).reshape(7, 2))
    codes = np.load(tmp_path / "codes.npy", mmap_mode="r")
    blocks = list(code_blocks(codes, 3))
    assert [start for start, _ in blocks] == [0, 3, 6]
    assert [len(block) for _, block in blocks] == [3, 3, 1] and all(isinstance(b, np.memmap) for _, b in blocks)
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), codes)
    assert list(code_blocks(codes[:0])) == []


def test_checks_give_the_sizes():
    codebooks, codes, _ = arrays(100, 4, 16)
    assert check_codebooks(codebooks) == (4, 16, 6)
    assert check_codes(codes, 4, 16) == 100
    assert check_codebooks(codebooks * np.float32(1 + NORM_TOLERANCE / 2)) == (4, 16, 6)  # float32's own rounding
    with pytest.raises(ValueError, match=r"norm 1, got one that is off by 0\.0002"):
        check_codebooks(codebooks * np.float32(1.0002))


def test_the_largest_code_is_found_in_any_block():
    codes = np.zeros((2 * CODE_BLOCK + 1, 1), np.uint8)
    codes[-1] = 16
    with pytest.raises(ValueError, match="codes reach 16, but a codebook has K=16"):
        check_codes(codes, 1, 16)
    assert check_codes(codes, 1, 32) == 2 * CODE_BLOCK + 1
