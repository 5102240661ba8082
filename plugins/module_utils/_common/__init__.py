# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to this collection. What every other room speaks of: errors, text, parameters and how they are shown.

Imports from no other room.
"""
