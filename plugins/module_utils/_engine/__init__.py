# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to this collection. From what is wanted and what is to a plan, and the plan carried out.

Imports from _common, _store and _kernel.
"""
