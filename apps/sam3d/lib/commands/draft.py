"""`draft`: first masks of all images, without a server."""

from __future__ import annotations

import argparse
from pathlib import Path

from lib.commands.arguments import CLUSTER, add_settings, settings_of
from lib.errors import SettingsError


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--studies", required=True, metavar="DIR", help="the server's --studies: a folder, or a URL")
    options.add_argument("--tag", default="original", metavar="TAG", help="what the drafts are stored as (original)")
    add_settings(options, "labels", "model_folder", "variant", "checkpoint", "preset", "spacing_mm", "device")
    add_settings(options, "precision", *CLUSTER)


def run(args: argparse.Namespace) -> int:
    """make a draft of every image that has no final label; go on where an earlier run ended"""
    from lib.configs.sam3d import Sam3DConfig
    from lib.datastore.opening import open_datastore
    from lib.datastore.versioned import VersionedDatastore
    from lib.naming import check_tag

    settings = settings_of(args)
    if check_tag(args.tag, "--tag") == "final":
        raise SettingsError("--tag is 'final': masks that nobody looked at are drafts, so use 'original'")
    if "://" not in args.studies and not Path(args.studies).is_dir():
        raise SettingsError(f"there is no folder {args.studies}: name the one that the server is started with")
    config = Sam3DConfig(settings, args.studies)
    datastore = open_datastore(args.studies, settings.labels, lambda: config.model.served_name)
    if not isinstance(datastore, VersionedDatastore):
        raise SettingsError(f"only MONAI Label's server knows the way to {args.studies}: use POST /batch/infer there")
    if other := datastore.claim():
        raise SettingsError(f"{other}, or use POST /batch/infer/sam3d_auto there")
    made, images = 0, sorted(datastore.list_images())
    for image, reply in config.drafts().make(images, datastore, args.tag):
        print(f"{image}: {reply.get('error') or 'draft stored'}", flush=True)
        made += "label" in reply
    print(f"{made} drafts of {len(images)} images")
    return 0
