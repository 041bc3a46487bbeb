"""Settings from --conf: what is read, what is refused, and with which sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.errors import SettingsError
from lib.settings import CONF_KEYS, PRESETS, RESERVED_LABELS, VARIANTS, Settings


def test_no_conf_is_the_demo_model_with_two_labels() -> None:
    settings = Settings.from_conf({})
    assert settings == Settings()
    assert settings.labels == ("lesion", "organ")
    assert settings.network == VARIANTS["tiny"]


def test_every_text_becomes_its_type() -> None:
    settings = Settings.from_conf(
        {
            "variant": "vit_l",
            "labels": "pancreas,tumour",
            "preset": "pancreas",
            "clip_low": "-50",
            "std": "60.5",
            "spacing_mm": "0.8",
            "max_patches": "8",
            "correction_radius_mm": "4.5",
            "max_clicks": "50",
            "device": "cuda:1",
            "checkpoint": "weights/own.safetensors",
            "volume_cache_mib": "100",
            "embedding_cache_mib": "0",
        }
    )
    assert settings.network == VARIANTS["vit_l"]
    assert settings.intensity is not None
    assert (settings.intensity.low, settings.intensity.high) == (-50.0, PRESETS["pancreas"].high)
    assert (settings.intensity.mean, settings.intensity.std) == (PRESETS["pancreas"].mean, 60.5)
    assert (settings.spacing_mm, settings.device) == (0.8, "cuda:1")
    assert (settings.clicks.max_patches, settings.clicks.correction_radius_mm, settings.clicks.max_clicks) == (
        8,
        4.5,
        50,
    )
    assert settings.checkpoint is not None
    assert settings.checkpoint.is_absolute()
    assert (settings.volume_cache_mib, settings.embedding_cache_mib) == (100, 0)


@pytest.mark.parametrize(
    ("conf", "variant"),
    [
        ({}, "tiny"),
        ({"sam_checkpoint": "sam_vit_h_4b8939.pth"}, "vit_h"),
        ({"sam_checkpoint": "renamed.pth"}, "vit_b"),
        ({"checkpoint": "best.pth.tar"}, "vit_b"),
        ({"checkpoint": "best.pth.tar", "variant": "tiny"}, "tiny"),
        ({"checkpoint": "/models/vit_l/tiny-3.safetensors"}, "tiny"),
    ],
)
def test_the_variant_follows_the_weights_unless_it_is_named(conf: dict[str, str], variant: str) -> None:
    assert Settings.from_conf(conf).variant == variant


def test_without_a_word_about_intensity_the_weights_decide() -> None:
    settings = Settings.from_conf({"labels": "a"})
    assert (settings.intensity, settings.spacing_mm) == (None, None)
    assert Settings.from_conf({"preset": "ct"}).intensity == PRESETS["ct"]
    assert Settings.from_conf({"clip_low": "-500"}).intensity == replace(PRESETS["ct"], low=-500.0)


def test_unknown_keys_are_named_beside_all_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"unknown settings \['patchsize'\]") as refusal:
        Settings.from_conf({"patchsize": "96", "labels": "a"})
    assert all(key in str(refusal.value) for key in CONF_KEYS)


def test_keys_of_the_server_are_set_aside() -> None:
    conf = {"models": "sam3d", "preload": "true", "skip_trainers": "true", "server_mode": "false", "auth_token": "x"}
    assert Settings.from_conf(conf) == Settings()


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({"variant": "vit_x"}, "variant is 'vit_x'"),
        ({"preset": "lung"}, "preset is 'lung'"),
        ({"spacing_mm": "fine"}, "must be a number"),
        ({"spacing_mm": "0"}, "from 0.1 to 10"),
        ({"spacing_mm": "nan"}, "from 0.1 to 10"),
        ({"mean": "inf"}, "must be a number"),
        ({"std": "0"}, "must be a number"),
        ({"max_clicks": "10.5"}, "whole number from 1"),
        ({"max_patches": "-1"}, "whole number from 1"),
        ({"max_patches": "9" * 30}, "whole number from 1"),
        ({"device": "tpu"}, "auto, cpu, cuda"),
        ({"checkpoint": ""}, "give the path"),
        ({"clip_low": "400"}, "must lie below clip_high"),
        ({"preset": "mr", "clip_high": "101"}, "percentiles"),
        ({"preset": "mr", "mean": "3"}, "drop them"),
    ],
)
def test_a_value_out_of_range_is_refused(conf: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError, match=words) as refusal:
        Settings.from_conf(conf)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty name"),
        ("a,,b", "empty name"),
        ("a,b,", "empty name"),
        ("a,b,a", "more than once"),
        ("background", "no label"),
        ("background,background,a", "more than once"),
        ("1,2", "segment's number"),
        ("٣", "segment's number"),
        ("x" * 65, "64 printable"),
        ("a\tb", "64 printable"),
        ("result_of_surgery", "another name"),
        (",".join(f"l{i}" for i in range(255)), "room for 254"),
    ],
)
def test_labels_that_would_not_survive_a_viewer_are_refused(text: str, words: str) -> None:  # T4
    with pytest.raises(SettingsError, match=words):
        Settings.from_conf({"labels": text})


@pytest.mark.parametrize("name", sorted(RESERVED_LABELS))
def test_a_label_cannot_be_named_as_a_key_of_a_request(name: str) -> None:  # T4
    with pytest.raises(SettingsError, match="another name"):
        Settings.from_conf({"labels": f"tumour,{name}"})


def test_background_is_no_label_and_is_remembered() -> None:  # T8
    settings = Settings.from_conf({"labels": "background,tumour,Liver"})
    assert settings.labels == ("Liver", "tumour")
    assert settings.lists_background
    assert not Settings.from_conf({"labels": "tumour"}).lists_background


def test_names_keep_their_letters_and_stand_in_the_order_of_ohif() -> None:  # T5
    labels = Settings.from_conf({"labels": "é, tumour,Große Niere,Zyste,肝臓,\U0001f9e0,\ufb01"}).labels
    assert labels == ("Große Niere", "Zyste", "tumour", "é", "肝臓", "\U0001f9e0", "\ufb01")


@given(st.permutations(["spleen", "liver", "left kidney", "Right kidney", "tumour 2"]))
def test_the_order_of_the_names_given_does_not_matter(names: list[str]) -> None:
    assert Settings.from_conf({"labels": ",".join(names)}) == Settings.from_conf({"labels": ",".join(sorted(names))})


def test_every_setting_has_a_line_of_help() -> None:
    assert all(len(key.help) > 20 for key in CONF_KEYS.values())
