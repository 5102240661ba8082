# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the controller's side share."""

from __future__ import annotations

from typing import Any


def vaulted(text: str) -> Any:
    """A value as a play has it after Ansible has decrypted it from a vault."""
    try:
        from ansible._internal._datatag._tags import VaultedValue
    except ImportError:
        from ansible.parsing.vault import VaultLib, VaultSecret
        from ansible.parsing.yaml.objects import AnsibleVaultEncryptedUnicode

        secret = VaultSecret(b"password")
        return AnsibleVaultEncryptedUnicode.from_plaintext(text, VaultLib([("default", secret)]), secret)
    return VaultedValue(ciphertext="$ANSIBLE_VAULT;1.1;AES256").tag(text)
