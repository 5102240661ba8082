# SPDX-License-Identifier: GPL-3.0-or-later
"""PRIVATE to this collection. What people do with it: the command, the status, decisions, kill log, drills, kept sets, modules.

Imports from every other room; none imports from here.
"""
