# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to this collection. Files on the host: where they are, what a manifest says, the persisted set, who writes it.

Imports from _common.
"""
