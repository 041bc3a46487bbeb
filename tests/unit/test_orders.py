"""Orders: what travels, and what must not."""

from __future__ import annotations

import json

import pytest

from lib.cluster.carrying import Place, carry_out, take_orders
from lib.cluster.identity import difference, identity
from lib.cluster.orders import LIMIT_BYTES, Failure, ImageReference, Order
from lib.errors import ClusterError, VolumeError

ORDER = Order("score", "k" * 64, ImageReference("a/b.nii.gz"), {"limit_mib": 1024, "list": [1, 2.5, "x"], "no": None})


@pytest.mark.parametrize(
    "order",
    [
        ORDER,
        Order("update", "k"),
        Order("draft", "k", ImageReference(series="1.2.3", archive="https://pacs/dicom-web", phase=2)),
        Order("score", "k", ImageReference("Gefäß\udc80/ß.nii.gz")),
    ],
)
def test_an_order_arrives_as_it_was_sent(order: Order) -> None:
    text = order.as_text()
    assert Order.from_text(text) == order
    assert len(text.encode()) <= LIMIT_BYTES
    assert text.isascii()


def test_an_order_that_is_too_long_does_not_travel() -> None:
    beside = len(Order("score", "").as_text())
    fits, not_quite = (Order("score", "k" * (LIMIT_BYTES - beside + more)) for more in (0, 1))
    assert (len(fits.as_text()), fits.is_short, not_quite.is_short) == (LIMIT_BYTES, True, False)
    with pytest.raises(ClusterError, match="longer than 1024 bytes"):
        not_quite.as_text()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"path": "/etc/passwd"}, "leaves the folder of studies"),
        ({"path": "a/../../b"}, "leaves the folder of studies"),
        ({}, "either a path or a series"),
        ({"path": "a", "series": "1.2", "archive": "http://x"}, "either a path or a series"),
        ({"series": "../x", "archive": "http://x"}, "cannot be one"),
        ({"series": "1.2", "archive": "file:///x"}, "cannot be one"),
    ],
)
def test_a_reference_that_leaves_the_studies_is_none(values: dict[str, str], sentence: str) -> None:
    with pytest.raises(ClusterError, match=sentence):
        ImageReference(**values)
    with pytest.raises(ClusterError, match=sentence if values else "either"):
        Order.from_text(json.dumps({"work": "score", "key": "k", "settings": {}, "image": values or {"phase": 1}}))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"work": 1}', '{"image": null, "work": "a", "key": "b", "more": 1}'])
def test_what_is_no_order_is_refused(text: str) -> None:
    with pytest.raises(ClusterError, match="an order cannot be read"):
        Order.from_text(text)


def test_a_worker_does_what_it_knows_and_tells_why_not() -> None:
    def work(task: object) -> object:
        raise {"lasting": VolumeError("no image"), "passing": ClusterError("no root"), "disk": OSError(28, "full")}[
            task.order.key
        ]

    take_orders({"try": work, "give": lambda task: {"got": task.order.key}}, Place())
    try:
        assert carry_out(Order("give", "x").as_text()) == {"got": "x"}
        assert carry_out(Order("try", "lasting").as_text()) == Failure("no image", is_lasting=True)
        assert carry_out(Order("try", "passing").as_text()) == Failure("no root", is_lasting=False)
        assert carry_out(Order("try", "disk").as_text()).sentence.startswith("a worker ended try of None with OSError")
        refused = carry_out(Order("os.system", "x").as_text())
        assert refused == Failure("there is no work 'os.system' here: it is one of ['give', 'try']")
        with pytest.raises(KeyError):  # a fault of ours is no failure of the image
            carry_out(Order("try", "unknown").as_text())
    finally:
        take_orders({}, Place())


def test_an_identity_names_what_differs() -> None:
    mine = identity()
    assert difference(mine, dict(mine)) == ""
    assert difference(mine, {**mine, "torch": "1.0"}) == f"torch {mine['torch']} here and 1.0 there"
    assert "code of sam3d" in difference(mine, {})
