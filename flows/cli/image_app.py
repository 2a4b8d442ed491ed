"""``sealift image``: commands on image files."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.examples import examples
from flows.cli.invocation import invocation
from flows.cli.options import BackingOption, JsonOption, OverwriteOption, StatedOption

image = typer.Typer(
    help="Disk image files, treated as hostile.",
    rich_markup_mode=None,
    epilog=examples(
        "sealift image info disk.qcow2",
        "sealift image convert disk.qcow2 disk.vhd --to vhd-fixed",
    ),
)

PathArgument = Annotated[Path, typer.Argument(help="The image file or block device.")]


@image.command(
    "info",
    epilog=examples("sealift image info disk.qcow2", "sealift image info disk.raw --format raw"),
)
def info(
    path: PathArgument,
    stated: StatedOption = None,
    allow_backing: BackingOption = None,
    json: JsonOption = False,
) -> None:
    """What an image is; nothing that it refers to is opened."""
    with invocation("image info", machine=json) as output:
        from flows.cli import image_commands

        image_commands.info(output, path, stated, allow_backing or ())


@image.command(
    "convert",
    epilog=examples(
        "sealift image convert disk.qcow2 disk.vhd --to vhd-fixed",
        "sealift image convert disk.raw disk.qcow2 --format raw --to qcow2 --compress",
    ),
)
def convert(
    path: PathArgument,
    target: Annotated[Path, typer.Argument(help="The new file.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            envvar="SEALIFT_TO",
            help="raw, qcow2, vmdk, vmdk-stream, vhd-fixed, vhd-dynamic, vhdx or vdi.",
        ),
    ],
    stated: StatedOption = None,
    allow_backing: BackingOption = None,
    compress: Annotated[
        bool, typer.Option("--compress", envvar="SEALIFT_COMPRESS", help="qcow2 only.")
    ] = False,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Write the same disk in another form: whole and compared, or not at all."""
    with invocation("image convert", machine=json) as output:
        from flows.cli import image_commands

        asked = image_commands.Conversion(
            path, target, to, stated, allow_backing or (), compress, overwrite
        )
        image_commands.convert(output, asked)
