"""Codes, their text and their packed integers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.catalog.sid import SidSpace
from models.errors import InvalidSid

SPACES = st.sampled_from([SidSpace((64, 64, 256)), SidSpace((256,) * 4), SidSpace((8192,) * 3)])


@given(SPACES, st.data())
def test_packing_round_trips_and_keeps_the_order_of_codes(
    space: SidSpace, data: st.DataObject
) -> None:
    depth = data.draw(st.integers(1, space.levels))
    code = st.tuples(*(st.integers(0, size - 1) for size in space.sizes[:depth]))
    codes = sorted(data.draw(st.lists(code, min_size=1, max_size=20)))
    packed = space.pack(np.array(codes))
    assert packed.tolist() == sorted(packed.tolist())
    assert space.unpack(packed, depth).tolist() == [list(sid) for sid in codes]


@given(SPACES, st.data())
def test_text_round_trips_through_surrounding_words(space: SidSpace, data: st.DataObject) -> None:
    sids = data.draw(
        st.lists(st.tuples(*(st.integers(0, size - 1) for size in space.sizes)), max_size=4)
    )
    text = "bought " + " and then ".join(space.text(sid) for sid in sids) + "."
    assert space.parse(text) == tuple(sids)


def test_itemic_text_is_that_of_the_paper() -> None:
    space = SidSpace((64, 64, 256))
    assert space.text((1, 2, 3)) == "<|item_begin|><item_a_1><item_b_2><item_c_3><|item_end|>"
    assert len(space.tokens()) == len(set(space.tokens())) == 64 + 64 + 256


def test_incomplete_or_disordered_sids_in_text_are_not_parsed() -> None:
    space = SidSpace((64, 64, 256))
    assert space.parse("<|item_begin|><item_a_1><item_b_2><|item_end|>") == ()
    assert space.parse("<|item_begin|><item_b_1><item_a_2><item_c_3><|item_end|>") == ()
    with pytest.raises(InvalidSid, match=r"code 64 at level 0, expected 0\.\.63"):
        space.parse("<|item_begin|><item_a_64><item_b_2><item_c_3><|item_end|>")


def test_fingerprint_names_sizes_depth_and_codebook() -> None:
    spaces = [
        SidSpace((64, 64, 256)),
        SidSpace((64, 64, 256), 1),
        SidSpace((64, 64, 256), 2, "other codebook"),
        SidSpace((64, 256, 64)),
    ]
    assert len({space.fingerprint for space in spaces}) == len(spaces)
    assert SidSpace((64, 64, 256)).fingerprint == spaces[0].fingerprint < 2**64


@pytest.mark.parametrize(
    ("sizes", "depth"), [((8,), 1), ((8, 8), 2), ((0, 8), 1), ((8, 70000), 1), ((65536,) * 4, 2)]
)
def test_impossible_spaces_are_refused(sizes: tuple[int, ...], depth: int) -> None:
    with pytest.raises(InvalidSid, match=r"expected|must stay"):
        SidSpace(sizes, depth)
