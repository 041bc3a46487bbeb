"""`export`: the labelled cases as a folder that others train on."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

from lib.commands.arguments import add_settings, natural, settings_of, share
from lib.errors import SettingsError


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--studies", required=True, metavar="DIR", help="the server's --studies: a folder, or a URL")
    options.add_argument("--out", type=Path, required=True, metavar="DIR", help="new; for nnU-Net as TaskNNN_Name")
    options.add_argument("--format", choices=("msd", "datalist"), required=True, help="of the Decathlon, or of MONAI")
    options.add_argument("--copy", action="store_true", help="copy images that could be linked")
    options.add_argument("--modality", default="", help="what images are, as in CT; as DICOM says unless named")
    options.add_argument("--test-share", type=share, default=0.2, metavar="X", help="share of the patients for tests")
    options.add_argument("--seed", type=natural, default=0, metavar="N", help="another one draws other patients")
    add_settings(options, "labels", "train_on")


def run(args: argparse.Namespace) -> int:
    """write labelled cases as a folder that nnU-Net, MONAI and others train on, with the versions of their labels"""
    from lib.datastore.opening import open_datastore
    from lib.datastore.versioned import VersionedDatastore
    from lib.exporting.folders import MSD, ExportPlan, export

    settings = settings_of(args)
    if "://" not in args.studies and not Path(args.studies).is_dir():
        raise SettingsError(f"there is no folder {args.studies}: name the one that the server was started with")
    datastore = open_datastore(args.studies, settings.labels, lambda: "")
    if not isinstance(datastore, VersionedDatastore):
        raise SettingsError(f"{args.studies} keeps no versions of labels: name a folder, or a DICOMweb archive")
    plan = ExportPlan(
        form=args.format,
        train_on=settings.training.train_on,
        labels=settings.labels if args.labels else (),
        modality=args.modality,
        is_copied=args.copy,
        test_share=args.test_share,
        seed=args.seed,
    )
    with closing(datastore):
        print(export(datastore, args.out.absolute(), plan))
    if args.format == MSD:
        print(f"for nnU-Net: nnUNetv2_convert_MSD_dataset -i {args.out}")
    return 0
