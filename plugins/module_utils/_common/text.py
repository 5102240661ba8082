# SPDX-License-Identifier: GPL-3.0-or-later
"""Names that somebody else chose: bytes to the kernel, text to whoever reads of them."""

from __future__ import annotations

import os
import re

from .errors import printable

_ODD = re.compile("[\udc80-\udcff\ufffd]")


def as_text(raw: bytes) -> str:
    """One to one, so that two names are never one: a byte that is no UTF-8 becomes U+FFFD and its two hexadecimal digits.

    So does each byte of U+FFFD itself. Everything else is as it was.
    """
    text = raw.decode("utf-8", "surrogateescape")
    return _ODD.sub(lambda odd: "".join(f"\ufffd{byte:02x}" for byte in odd[0].encode("utf-8", "surrogateescape")), text)


def shown(path: str) -> str:
    """A path of the file system, as Python has it, for a sentence: one line, and nothing that writes to a terminal."""
    return printable(as_text(os.fsencode(path)))


__all__ = ["as_text", "shown"]
