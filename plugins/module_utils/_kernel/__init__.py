# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to this collection. What the host's kernel can, how it is asked, what it tells; the module for stock kernels.

Imports from _common and _store.
"""
