# SPDX-License-Identifier: GPL-3.0-or-later
"""Values that Ansible has decrypted from a vault: taken as any other, and never told in a message."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..module_utils._common.errors import BpfOomError, printable


@functools.lru_cache(maxsize=None)
def _knows() -> Callable[[Any], bool]:
    """What tells a vaulted value; only a controller has it, and tests of the host side import neighbours of this."""
    try:
        # ansible-core 2.19 and later: a decrypted value is a plain text with a tag.
        from ansible.parsing.vault import VaultHelper
    except ImportError:
        from ansible.parsing.yaml.objects import AnsibleVaultEncryptedUnicode

        return lambda value: isinstance(value, AnsibleVaultEncryptedUnicode)
    return lambda value: VaultHelper.get_ciphertext(value, with_tags=False) is not None


def is_vaulted(value: Any) -> bool:
    return _knows()(value)


WORD = "(vaulted)"


def plain(value: Any) -> Any:
    """A value with every vaulted text in it as a plain one: before ansible-core 2.19 they are no texts at all."""
    if is_vaulted(value):
        return str(value)
    if isinstance(value, Mapping):
        return {plain(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [plain(inner) for inner in value]
    return value


def _secrets(value: Any) -> Iterator[str]:
    if is_vaulted(value):
        yield str(value)
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _secrets(key)
            yield from _secrets(inner)
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        for inner in value:
            yield from _secrets(inner)


def mask(error: BpfOomError, given: Any) -> BpfOomError:
    """The error without any text that is vaulted in what was given, however it is written there."""
    told = [error.cause, error.remedy, error.details]
    for secret in sorted(set(_secrets(given)), key=len, reverse=True):
        for written in filter(None, (repr(secret)[1:-1], printable(secret), secret)):
            told = [text.replace(written, WORD) for text in told]
    return BpfOomError(*told)


__all__ = ["WORD", "is_vaulted", "mask", "plain"]
