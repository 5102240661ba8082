# SPDX-License-Identifier: GPL-3.0-or-later
"""The signature that sign-file of the kernel puts behind a module: PKCS#7, struct module_signature, a magic line.

What identifies a signed module is what is signed and by whom: a key of elliptic curves gives another signature, and so another
file, each time.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Iterator, NamedTuple, Tuple

from .._common.errors import BpfOomError

MAGIC = b"~Module signature appended~\n"
# algo, hash, id_type, signer_len, key_id_len, three bytes of nothing, sig_len, which is in the order of the network.
_TRAILER = struct.Struct(">BBBBB3xI")
_PKCS7 = 2
_INTEGER, _SET, _TAGGED_0 = 0x02, 0x31, 0xA0
_BROKEN = (IndexError, ValueError, StopIteration)


class Signed(NamedTuple):
    content: bytes  # without the signature
    signer: str  # a digest of the certificate's issuer and serial number; '' for what is not signed


def split(data: bytes) -> Signed:
    """Raises BpfOomError for what ends as a signed module does, and is none."""
    if not data.endswith(MAGIC):
        return Signed(data, "")
    end = len(data) - len(MAGIC) - _TRAILER.size
    try:
        _algorithm, _hash, kind, _signer, _key, size = _TRAILER.unpack_from(data, end)
        if kind != _PKCS7 or not 0 < size < end:
            raise ValueError
        return Signed(data[: end - size], hashlib.sha256(_signer_of(data[end - size : end])).hexdigest())
    except (struct.error, *_BROKEN):
        raise BpfOomError("the signature of this module is damaged", "sign it again") from None


def _elements(data: bytes, at: int, end: int) -> Iterator[Tuple[int, int, int, int]]:
    """Tag, where the element begins, where its contents do, where it ends: DER."""
    while at < end:
        begin, tag, size, at = at, data[at], data[at + 1], at + 2
        if size & 0x80:
            count = size & 0x7F
            size, at = int.from_bytes(data[at : at + count], "big"), at + count
        if at + size > end:
            raise ValueError
        yield tag, begin, at, at + size
        at += size


def _signer_of(data: bytes) -> bytes:
    """ContentInfo, [0], SignedData, its last member signerInfos, the first of them, its second member sid."""
    _tag, _begin, at, end = next(_elements(data, 0, len(data)))
    at, end = next((at, end) for tag, _begin, at, end in _elements(data, at, end) if tag == _TAGGED_0)
    _tag, _begin, at, end = next(_elements(data, at, end))
    *_others, (tag, _begin, at, end) = _elements(data, at, end)
    if tag != _SET:
        raise ValueError
    _tag, _begin, at, end = next(_elements(data, at, end))
    members = _elements(data, at, end)
    if next(members)[0] != _INTEGER:
        raise ValueError
    _tag, begin, _at, end = next(members)
    return data[begin:end]
