"""Foreign text, such as a file name, in a message."""


def printable(text: str) -> str:
    """``text`` on one line that any terminal can print: control and undecodable characters are escaped.

    >>> printable("scan\\x1b[2J.nii")
    'scan\\\\x1b[2J.nii'
    """
    return "".join(c if c.isprintable() or c == "\u3000" else c.encode("unicode_escape").decode() for c in text)
