"""What ``qemu-img`` tells about an image, as values."""

from dataclasses import dataclass

from converters.image import ImageFormat
from converters.strict_json import Fields, load, load_objects
from sealift.errors import ToolError
from sealift.extents import Extent, Kind

_CHECK_SKIPPED = ("filename", "format", "fragmented-clusters", "compressed-clusters")


@dataclass(frozen=True, slots=True)
class VmdkExtent:
    """A file that a VMDK consists of; ``filename`` as QEMU resolved it."""

    filename: str
    kind: str


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """``qemu-img info``: the header's claims, none of them followed.

    Attributes:
        format: as stated by us and confirmed.
        virtual_size_bytes: of the disk, a multiple of 512.
        allocated_bytes: on the host; 0 where the host cannot tell.
        cluster_size_bytes: where the format has one.
        encrypted: needs a key.
        dirty: not closed cleanly; data is readable, metadata may leak space.
        corrupt: QEMU itself marked it so.
        backing_file: the reference as written in the header.
        backing_format: as written in the header.
        data_file: qcow2's external data file, as written.
        extents: VMDK's files.
        snapshots: names of internal snapshots; a conversion leaves them behind.
        bitmaps: names of persistent dirty bitmaps; a conversion leaves them behind.
    """

    format: ImageFormat
    virtual_size_bytes: int
    allocated_bytes: int
    cluster_size_bytes: int | None
    encrypted: bool
    dirty: bool
    corrupt: bool
    backing_file: str | None
    backing_format: str | None
    data_file: str | None
    extents: tuple[VmdkExtent, ...]
    snapshots: tuple[str, ...]
    bitmaps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MapExtent:
    """One range of ``qemu-img map``: bytes, half-open.

    Attributes:
        start: bytes.
        length: bytes, positive.
        depth: 0 for the image itself, 1 for its base, ...
        present: allocated in the chain.
        zero: reads as zeroes.
        data: has stored bytes.
        offset: where in the file, when stored plainly.
        compressed: stored compressed.
    """

    start: int
    length: int
    depth: int
    present: bool
    zero: bool
    data: bool
    offset: int | None
    compressed: bool

    @property
    def end(self) -> int:
        """First byte after the range."""
        return self.start + self.length

    @property
    def extent(self) -> Extent:
        """The range in the engine's words."""
        return Extent(self.start, self.length, Kind.ZERO if self.zero else Kind.DATA)


@dataclass(frozen=True, slots=True)
class Measure:
    """``qemu-img measure``: the size that a conversion will need; bytes.

    Attributes:
        required_bytes: for what is allocated now.
        fully_allocated_bytes: when every block is written.
        bitmaps_bytes: extra for persistent bitmaps, where there are any.
    """

    required_bytes: int
    fully_allocated_bytes: int
    bitmaps_bytes: int


@dataclass(frozen=True, slots=True)
class CheckReport:
    """``qemu-img check``: is the image's own metadata consistent.

    Attributes:
        errors: internal errors while checking; the rest is then incomplete.
        corruptions: data may be wrong or lost.
        leaks: clusters that nobody uses; harmless.
        allocated_clusters: where the format counts them.
        total_clusters: where the format counts them.
        image_end_bytes: the last byte in use, where known.
    """

    errors: int
    corruptions: int
    leaks: int
    allocated_clusters: int | None
    total_clusters: int | None
    image_end_bytes: int | None

    @property
    def sound(self) -> bool:
        """Whether every byte that the image holds can be trusted to be the guest's."""
        return self.errors == 0 and self.corruptions == 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """``qemu-img compare``: do two images hold the same disk.

    Attributes:
        identical: every byte is equal, and what one has beyond the other reads as zeroes.
        sizes_differ: one disk is longer.
        first_difference: byte offset, where they differ and QEMU names it.
    """

    identical: bool
    sizes_differ: bool
    first_difference: int | None


def parse_info(raw: bytes) -> ImageInfo:
    """The output of ``info --output=json``.

    Raises:
        ToolError: it is not what QEMU documents.
    """
    fields = Fields(load(raw, "qemu-img info"), "qemu-img info")
    size = fields.integer("virtual-size")
    fields.skip("filename", "full-backing-filename", "compressed", "children", "limits")
    specific = _Specific.read(fields.maybe_fields("format-specific"))
    info = ImageInfo(
        format=_format(fields.text("format")),
        virtual_size_bytes=size,
        allocated_bytes=fields.maybe_integer("actual-size") or 0,
        cluster_size_bytes=fields.maybe_integer("cluster-size"),
        encrypted=fields.boolean("encrypted", default=False) or specific.encrypted,
        dirty=fields.boolean("dirty-flag", default=False),
        corrupt=specific.corrupt,
        backing_file=fields.maybe_text("backing-filename"),
        backing_format=fields.maybe_text("backing-filename-format"),
        data_file=specific.data_file,
        extents=specific.extents,
        snapshots=tuple(_snapshot(entry) for entry in fields.array("snapshots")),
        bitmaps=specific.bitmaps,
    )
    fields.done()
    return info


@dataclass(frozen=True, slots=True)
class _Specific:
    encrypted: bool = False
    corrupt: bool = False
    data_file: str | None = None
    extents: tuple[VmdkExtent, ...] = ()
    bitmaps: tuple[str, ...] = ()

    @classmethod
    def read(cls, outer: Fields | None) -> "_Specific":
        if outer is None:
            return cls()
        kind, data = outer.text("type"), outer.maybe_fields("data")
        outer.done()
        if kind == "qcow2" and data is not None:
            return cls._qcow2(data)
        if kind == "vmdk" and data is not None:
            return cls._vmdk(data)
        if kind == "file":  # QEMU 8 and later, for raw: extent size hints
            return cls()
        raise ToolError(f"qemu-img info tells of an unknown format {kind!r}")

    @classmethod
    def _qcow2(cls, data: Fields) -> "_Specific":
        data.skip("compat", "compression-type", "lazy-refcounts", "refcount-bits")
        data.skip("extended-l2", "data-file-raw")
        encrypted = data.maybe_fields("encrypt") is not None
        bitmaps = tuple(_bitmap(entry) for entry in data.array("bitmaps"))
        corrupt = data.boolean("corrupt", default=False)
        data_file = data.maybe_text("data-file")
        data.done()
        return cls(encrypted, corrupt, data_file, (), bitmaps)

    @classmethod
    def _vmdk(cls, data: Fields) -> "_Specific":
        data.skip("cid", "parent-cid", "create-type")
        extents = tuple(_vmdk_extent(entry) for entry in data.array("extents"))
        data.done()
        return cls(extents=extents)


def _vmdk_extent(entry: Fields) -> VmdkExtent:
    entry.skip("virtual-size", "cluster-size", "compressed")
    extent = VmdkExtent(entry.text("filename"), entry.text("format"))
    entry.done()
    return extent


def _bitmap(entry: Fields) -> str:
    entry.skip("flags", "granularity")
    name = entry.text("name")
    entry.done()
    return name


def _snapshot(entry: Fields) -> str:
    entry.skip("icount", "vm-clock-nsec", "vm-clock-sec", "date-sec", "date-nsec")
    entry.skip("id", "vm-state-size")
    name = entry.text("name")
    entry.done()
    return name


def _format(name: str) -> ImageFormat:
    try:
        return ImageFormat(name)
    except ValueError:
        raise ToolError(f"qemu-img info tells of an unknown format {name!r}") from None


def parse_map(raw: bytes) -> list[MapExtent]:
    """The output of ``map --output=json``.

    Raises:
        ToolError: it is not what QEMU documents.
    """
    return [_map_extent(entry) for entry in load_objects(raw, "qemu-img map")]


def _map_extent(entry: Fields) -> MapExtent:
    entry.skip("filename")
    extent = MapExtent(
        start=entry.integer("start"),
        length=entry.integer("length", minimum=1),
        depth=entry.integer("depth", maximum=1000),
        present=entry.boolean("present", default=True),
        zero=entry.boolean("zero"),
        data=entry.boolean("data"),
        offset=entry.maybe_integer("offset"),
        compressed=entry.boolean("compressed", default=False),
    )
    entry.done()
    return extent


def parse_measure(raw: bytes) -> Measure:
    """The output of ``measure --output=json``.

    Raises:
        ToolError: it is not what QEMU documents.
    """
    fields = Fields(load(raw, "qemu-img measure"), "qemu-img measure")
    measure = Measure(
        required_bytes=fields.integer("required"),
        fully_allocated_bytes=fields.integer("fully-allocated"),
        bitmaps_bytes=fields.maybe_integer("bitmaps") or 0,
    )
    fields.done()
    return measure


def parse_check(raw: bytes) -> CheckReport:
    """The output of ``check --output=json``.

    Raises:
        ToolError: it is not what QEMU documents.
    """
    fields = Fields(load(raw, "qemu-img check"), "qemu-img check")
    fields.skip(*_CHECK_SKIPPED)
    report = CheckReport(
        errors=fields.integer("check-errors"),
        corruptions=fields.maybe_integer("corruptions") or 0,
        leaks=fields.maybe_integer("leaks") or 0,
        allocated_clusters=fields.maybe_integer("allocated-clusters"),
        total_clusters=fields.maybe_integer("total-clusters"),
        image_end_bytes=fields.maybe_integer("image-end-offset"),
    )
    fields.done()
    return report
