# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the controller's side share."""

from __future__ import annotations

import functools
from typing import Any


@functools.cache
def vaulted(text: str) -> Any:
    """A value as a play has it after Ansible has decrypted it from a vault."""
    try:
        from ansible._internal._datatag._tags import VaultedValue
    except ImportError:
        from ansible.parsing.vault import VaultLib, VaultSecret
        from ansible.parsing.yaml.objects import AnsibleVaultEncryptedUnicode

        class Remembers(VaultLib):
            """Decrypting takes its time, and before ansible-core 2.19 a value is decrypted at each use of it."""

            def decrypt(self, *given: Any, **named: Any) -> Any:
                if not hasattr(self, "_once"):
                    self._once = super().decrypt(*given, **named)
                return self._once

        secret = VaultSecret(b"password")
        return AnsibleVaultEncryptedUnicode.from_plaintext(text, Remembers([("default", secret)]), secret)
    return VaultedValue(ciphertext="$ANSIBLE_VAULT;1.1;AES256").tag(text)
