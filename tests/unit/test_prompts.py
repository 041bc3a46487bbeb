"""Every request a client can send becomes clear clicks, a note, or one sentence of refusal."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.errors import PromptError
from lib.interactive.prompts import prompts_from_request

LABELS = ("tumor", "organ")
SHAPE = (128, 120, 60)


def read(request, labels=LABELS, shape=SHAPE, **options):
    return prompts_from_request(request, labels, shape, **options)


def rows(prompt):
    """The points of a prompt as [i, j, k, label]."""
    return np.column_stack([prompt.point_coords, prompt.point_labels]).tolist()


def test_one_label_and_background():
    request = read({"background": [[90, 80, 40]], "tumor": [[101, 88, 40], [103, 90, 41]]})
    assert list(request.prompts) == ["tumor"]
    assert rows(request.prompts["tumor"]) == [[101, 88, 40, 1], [103, 90, 41, 1], [90, 80, 40, 0]]
    assert request.prompts["tumor"].foreground.tolist() == [[101, 88, 40], [103, 90, 41]]
    assert request.background.tolist() == [[90, 80, 40]]
    assert request.prompts["tumor"].point_coords.dtype == np.int64
    assert (request.n_clicks, request.roi, request.notes) == (3, None, ())


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"background": []},
        {"tumor": [], "background": [], "label": "tumor"},
        {"tumor": None},
        {"label_prompt": [1, 2]},
        {"foreground": [], "background": []},
        {"points": [], "point_labels": [], "label_prompt": [1]},
        {"roi": [], "reset_state": True},
        {"null": [[1, 2, 3]]},
        {"device": ["cpu", "cuda"], "spatial_size": [96, 96, 96], "slice": 40},
    ],
)
def test_nothing_clicked_is_an_empty_request(params):
    request = read(params)
    assert request.prompts == {}
    assert request.background.shape == (0, 3)
    assert (request.n_clicks, request.notes) == (0, ())


def test_clicks_of_other_labels_are_negatives_but_not_background():
    request = read({"organ": [[1, 1, 1]], "tumor": [[2, 2, 2]], "background": [[3, 3, 3]]})
    assert list(request.prompts) == ["tumor", "organ"]
    assert rows(request.prompts["tumor"]) == [[2, 2, 2, 1], [3, 3, 3, 0], [1, 1, 1, 0]]
    assert rows(request.prompts["organ"]) == [[1, 1, 1, 1], [3, 3, 3, 0], [2, 2, 2, 0]]
    assert request.background.tolist() == [[3, 3, 3]]


def test_background_clicks_alone():
    request = read({"background": [[3, 3, 3]]})
    assert request.prompts == {}
    assert request.background.tolist() == [[3, 3, 3]]
    assert request.n_clicks == 1


def test_deepgrow_without_a_label_means_the_first():
    request = read({"foreground": [[101, 88, 40]], "background": [[90, 80, 40]]})
    assert rows(request.prompts["tumor"]) == [[101, 88, 40, 1], [90, 80, 40, 0]]


def test_deepgrow_names_its_label():
    request = read({"label": "organ", "foreground": [[1, 2, 3]], "background": []})
    assert list(request.prompts) == ["organ"]
    request = read({"label": "background", "foreground": [[1, 2, 3]]})
    assert request.prompts == {}
    assert request.background.tolist() == [[1, 2, 3]]


def test_deepgrow_with_an_unknown_label_is_refused():
    with pytest.raises(PromptError, match=r"label 'spleen' is not one of \['tumor', 'organ'\]"):
        read({"label": "spleen", "foreground": [[1, 2, 3]]})


def test_t3_equal_foreground_and_background_are_background():
    request = read({"foreground": [[90, 80, 40]], "background": [[90, 80, 40]]})
    assert request.prompts == {}
    assert request.background.tolist() == [[90, 80, 40]]
    assert request.notes == ("foreground and background are the same clicks; they were taken as background",)


def test_vista3d_points():
    params = {"points": [[101, 88, 40], [9, 9, 9], [90, 80, 40]], "point_labels": [1, -1, 0], "label_prompt": [2]}
    request = read(params)
    assert list(request.prompts) == ["organ"]
    assert rows(request.prompts["organ"]) == [[101, 88, 40, 1], [90, 80, 40, 0]]
    assert list(read({"points": [[1, 1, 1]]}).prompts) == ["tumor"]
    assert list(read({"points": [[1, 1, 1]], "label_prompt": 2}).prompts) == ["organ"]
    several = read({"points": [[1, 1, 1]], "label_prompt": [2, 1]})
    assert list(several.prompts) == ["organ"]
    assert several.notes == ("label_prompt names 2 labels; the points were taken for the first",)


def test_label_numbers_skip_the_background_label():
    request = read({"points": [[1, 1, 1]], "label_prompt": [2]}, labels=("background", "tumor", "organ"))
    assert list(request.prompts) == ["organ"]
    with pytest.raises(PromptError, match="number the labels"):
        read({"points": [[1, 1, 1]], "label_prompt": [2]}, labels=("tumor", "background"))


def test_background_as_a_label_of_the_app_is_still_background():
    request = read({"background": [[1, 1, 1]], "tumor": [[2, 2, 2]]}, labels=("tumor", "background"))
    assert list(request.prompts) == ["tumor"]
    assert request.background.tolist() == [[1, 1, 1]]


def test_t2_unknown_names_are_left_out_and_noted():
    request = read({"device": "cpu", "background": [], "liver": [[10, 10, 10]], "tumor": [[101, 88, 40]]})
    assert list(request.prompts) == ["tumor"]
    assert request.n_clicks == 1
    assert request.notes == ("clicks of unknown labels ['liver'] left out; the labels are ['tumor', 'organ']",)


def test_t5_names_are_exact():
    request = read(
        {"Tumor": [[9, 9, 9]], "Läsion links": [[1, 2, 3]], "肿瘤": [[4, 5, 6]]},
        labels=("tumor", "Läsion links", "肿瘤"),
    )
    assert list(request.prompts) == ["Läsion links", "肿瘤"]
    assert "'Tumor'" in request.notes[0]


def test_t6_odd_clicks():
    clicks = [[1.4, 2.6, "3"], ["1", "3", "3.0"], [1, 2], [1, 2, 3, 4], [math.nan, 1, 1], [5, "inf", 5], [7, 7, 7]]
    request = read({"tumor": clicks})
    assert request.prompts["tumor"].foreground.tolist() == [[1, 3, 3], [7, 7, 7]]
    assert request.n_clicks == 2
    assert request.notes == ("4 of the clicks of 'tumor' left out, the first [1, 2]: not three finite numbers",)


def test_t6_out_of_volume():
    request = read(
        {"background": [], "tumor": [[-3, 5000, 40], [127, 119, 59], [128, 0, 0], [10**400, 0, 0], [-0.4, 0, 0]]}
    )
    assert request.prompts["tumor"].foreground.tolist() == [[127, 119, 59], [0, 0, 0]]
    assert "the first [-3, 5000, 40]: outside the image of shape (128, 120, 60)" in " ".join(request.notes)
    assert read({"tumor": [[-3, 5000, 40]]}).prompts == {}


def test_order_is_kept_and_duplicates_merged():
    clicks = [[9, 9, 9], [1, 1, 1], [5, 5, 5], [1, 1, 1], [9, 9, 9]]
    assert read({"tumor": clicks}).prompts["tumor"].foreground.tolist() == [[9, 9, 9], [1, 1, 1], [5, 5, 5]]


def test_t7_negative_wins():
    request = read({"tumor": [[1, 1, 1], [2, 2, 2]], "background": [[1, 1, 1]]})
    assert rows(request.prompts["tumor"]) == [[2, 2, 2, 1], [1, 1, 1, 0]]
    assert request.notes == ("1 voxels clicked as foreground and background, first (1, 1, 1): background",)
    assert read({"tumor": [[1, 1, 1]], "background": [[1, 1, 1]]}).prompts == {}


def test_a_voxel_of_two_labels_is_in_neither():
    request = read({"tumor": [[1, 1, 1], [2, 2, 2]], "organ": [[1, 1, 1]]})
    assert list(request.prompts) == ["tumor"]
    assert rows(request.prompts["tumor"]) == [[2, 2, 2, 1], [1, 1, 1, 0]]
    assert request.background.tolist() == [[1, 1, 1]]
    assert request.notes == ("1 voxels clicked for two labels, first (1, 1, 1): in neither",)


def test_roi_is_sorted_clipped_and_inclusive():
    request = read({"tumor": [[101, 88, 40]], "label": "tumor", "roi": [140, 60, 50, 150, "20.2", 60]})
    assert request.roi == (slice(60, 128), slice(50, 120), slice(20, 60))
    assert request.notes == ()
    assert read({"tumor": [[1, 1, 1]], "roi": [5, 5, 6, 6, 7, 7]}).roi == (slice(5, 6), slice(6, 7), slice(7, 8))


def test_a_box_without_clicks_asks_for_its_centre():
    params = {"tumor": [], "organ": [], "background": [], "label": "organ", "roi": [20, 10, 30, 40, 5, 5]}
    request = read(params)
    assert rows(request.prompts["organ"]) == [[15, 35, 5, 1]]
    assert request.n_clicks == 0
    assert request.notes == ("no click of 'organ': the centre (15, 35, 5) of the box was taken for one",)
    assert list(read({"roi": [10, 20, 30, 40, 5, 5]}).prompts) == ["tumor"]


def test_a_box_is_only_a_limit_for_somebody_who_clicks():
    roi = [10, 20, 30, 40, 5, 5]
    assert list(read({"organ": [[15, 31, 5]], "roi": roi}).prompts) == ["organ"]
    assert list(read({"organ": [[15, 31, 5]], "label": "Segment_1", "roi": roi}).prompts) == ["organ"]
    assert list(read({"organ": [[15, 31, 5]], "label": "tumor", "roi": roi}).prompts) == ["tumor", "organ"]
    assert read({"background": [[1, 1, 1]], "label": "background", "roi": roi}).prompts == {}
    contested = read({"background": [[15, 35, 5]], "label": "tumor", "roi": roi})
    assert contested.prompts == {}
    assert "clicked as something else" in contested.notes[0]


def test_a_box_outside_is_left_out():
    request = read({"tumor": [[1, 1, 1]], "roi": [-9, -2, 0, 5, 0, 5]})
    assert request.roi is None
    assert "lies outside the image of shape (128, 120, 60)" in request.notes[0]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ([1, 2], r"params is \[1, 2\]; send a mapping"),
        ("tumor", "params is 'tumor'"),
        (None, "params is None"),
        ({"tumor": {"0": [1, 2, 3]}}, r"clicks of 'tumor' are \{'0': \[1, 2, 3\]\}; send a list"),
        ({"tumor": 7}, "clicks of 'tumor' are 7"),
        ({"background": "[[1, 2, 3]]"}, "clicks of 'background' are"),
        ({"foreground": 3.5}, "clicks of 'foreground' are 3.5"),
        ({"points": {"a": 1}}, "clicks of 'points' are"),
        ({"tumor": [1, 2, 3]}, r"a click of 'tumor' is 1; send \[i, j, k\]"),
        ({"tumor": [[1, 2, "x"]]}, "where 'x' is no voxel index"),
        ({"tumor": [[1, 2, None]]}, "where None is no voxel index"),
        ({"tumor": [[1, True, 2]]}, "where True is no voxel index"),
        ({"tumor": [[[1], 2, 3]]}, r"where \[1\] is no voxel index"),
        ({"points": [[1, 1, 1]], "point_labels": [1, 0]}, "one number for each of the 1 points"),
        ({"points": [[1, 1, 1]], "point_labels": [2]}, "use 1 for foreground and 0 for background"),
        ({"points": [[1, 1, 1]], "point_labels": 1}, "point_labels is 1"),
        ({"points": [[1, 1, 1]], "label_prompt": [3]}, r"label_prompt is \[3\]; number the labels"),
        ({"points": [[1, 1, 1]], "label_prompt": [0]}, r"label_prompt is \[0\]"),
        ({"points": [[1, 1, 1]], "label_prompt": "tumor"}, "label_prompt is 'tumor'"),
        ({"roi": [1, 2, 3, 4]}, r"roi is \[1, 2, 3, 4\]; send six"),
        ({"roi": [1, 2, 3, 4, 5, None]}, "roi is"),
        ({"roi": [1, 2, 3, 4, 5, math.nan]}, "roi is"),
        ({"roi": "1,2"}, "roi is '1,2'"),
    ],
)
def test_what_cannot_be_a_click_is_refused(params, message):
    with pytest.raises(PromptError, match=message):
        read(params)


def test_too_many_clicks_are_refused_before_they_are_read():
    read({"tumor": [[1, 1, 1]] * 6, "background": [[2, 2, 2]] * 4}, max_clicks=10)
    with pytest.raises(PromptError, match="the request has 11 clicks and at most 10"):
        read({"tumor": [["never looked at"]] * 7, "background": [[2, 2, 2]] * 4}, max_clicks=10)
    with pytest.raises(PromptError, match="10000 clicks and at most 1000"):
        read({"points": [[1, 1, 1]] * 10_000})


def test_a_huge_value_makes_a_short_message():
    with pytest.raises(PromptError) as caught:
        read({"tumor": "9" * 1_000_000})
    assert len(str(caught.value)) < 300
    assert len(" ".join(read({"x" * 10_000: [[1, 2, 3]]}).notes)) < 400


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=8,
)
points = st.lists(st.lists(st.integers(-2, 6) | st.floats(-1, 6), min_size=2, max_size=4), max_size=6)
keys = st.sampled_from(
    ["tumor", "organ", "background", "foreground", "points", "liver", "point_labels", "label_prompt"]
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(keys | st.sampled_from(["label", "roi", "null"]), points | junk, max_size=6))
def test_any_request_gives_clear_clicks_or_a_prompt_error(params):
    try:
        request = read(params, shape=(5, 5, 5))
    except PromptError:
        return
    owned = [set(map(tuple, prompt.foreground.tolist())) for prompt in request.prompts.values()]
    negative = set(map(tuple, request.background.tolist()))
    everything = [point for points in [*owned, negative] for point in points]
    assert len(everything) == len(set(everything))  # no voxel is asked to be two things
    for prompt, own in zip(request.prompts.values(), owned, strict=True):
        assert own
        assert len(prompt.point_coords) == len(everything)  # all clicks speak about every label
        assert ((prompt.point_coords >= 0) & (prompt.point_coords < 5)).all()
