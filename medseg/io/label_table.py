"""Structure names inside a NIfTI header: the XML label table of Caret and Connectome Workbench, as TotalSegmentator has it."""

from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

from medseg.core.labels import Labels

ECODE = 0  # as TotalSegmentator writes it; Caret's own 30 makes nibabel 5.4 fail on reading the content
MAX_TABLE_BYTES = 2**22


def table_to_xml(labels: Labels) -> bytes:
    """The label table of ``labels`` (the background is left out, as TotalSegmentator leaves it out)."""
    rows = "\n".join(_row(s.name, s.value, s.colour) for s in labels.structures)
    return (
        '<?xml version="1.0" encoding="UTF-8"?><CaretExtension><VolumeInformation Index="0"><LabelTable>\n'
        f"{rows}\n</LabelTable><StudyMetaDataLinkSet></StudyMetaDataLinkSet>"
        "<VolumeType><![CDATA[Label]]></VolumeType></VolumeInformation></CaretExtension>"
    ).encode()


def table_from_xml(content: bytes) -> dict[str, int] | None:
    """``{name: value}`` of a label table; None where ``content`` is none. Documents with entities are never expanded."""
    if len(content) > MAX_TABLE_BYTES or b"<CaretExtension" not in content or b"<!DOCTYPE" in content:
        return None
    try:
        root = ElementTree.fromstring(content.strip(b"\0 \r\n\t"))
        rows = [(row.text or "", int(row.get("Key", ""))) for row in root.iter("Label")]
    except (ElementTree.ParseError, ValueError):
        return None
    return {name.strip(): value for name, value in rows} or None


def _row(name: str, value: int, colour: str) -> str:
    red, green, blue = (f"{int(colour[at : at + 2], 16) / 255:.6g}" for at in (1, 3, 5))
    safe = "".join(c if c.isprintable() else " " for c in name).replace("]]>", "]]]]><![CDATA[>")
    attributes = f'Key={quoteattr(str(value))} Red="{red}" Green="{green}" Blue="{blue}" Alpha="1"'
    return f"<Label {attributes}><![CDATA[{safe}]]></Label>"
