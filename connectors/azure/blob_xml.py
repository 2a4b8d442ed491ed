"""Documents of the blob service, which may be anybody's."""

from xml.etree import ElementTree


def parsed(raw: bytes) -> ElementTree.Element | None:
    """The root of a document; None when it is none.

    A declaration of an unknown encoding raises ``LookupError``, one of several bytes
    ``ValueError``. Entities that grow without bounds are refused by expat.
    """
    try:
        return ElementTree.fromstring(raw)  # noqa: S314 - see above
    except (ElementTree.ParseError, LookupError, ValueError):
        return None
