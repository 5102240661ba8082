# SPDX-License-Identifier: GPL-3.0-or-later
"""Generated input, over ten thousand of it: a refusal in words or a right answer, and nothing outside our directories."""

from __future__ import annotations

import json
import os
import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.params import (
    SELECTORS_SIZE,
    check_glob,
    check_name,
    check_selector,
    covers,
    show_selectors,
)
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.typed import type_params
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.words import lines as parameter_lines
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine.drift import expected_rodata
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine.engine import Engine
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._kernel.tracefs import mark, parse_format, records
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._ops.cli import main
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._ops.decisions import lines, readable
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._ops.drill import check_drill
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._ops.kill_log import parse_totals
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._ops.report import report as everything
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.manifest import Manifest, parse
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.paths import Paths
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.writer import Writer
from ansible_collections.linuxmm.bpf_oom.plugins.plugin_utils._policies import LIBRARY, read_metadata
from ansible_collections.linuxmm.bpf_oom.tests.unit.plugins.module_utils.common import manifest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

#: Of each property; there are twelve.
EXAMPLES = 1000
many = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=False, database=None)

WORDS = [
    "/",
    "*",
    "?",
    "..",
    ".",
    "\\x2d",
    "memory.max",
    "name:",
    "uid:",
    "-",
    "db@1.service",
    "\n",
    "\0",
    "\x1b",
    "\u202e",
    "\udc80",
]
texts = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(WORDS), max_size=8).map("".join))
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts)
trees = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)), max_leaves=12
)
PROGRAMS = {path.parent.name: read_metadata(path) for path in sorted(LIBRARY.glob("policies/*/policy.yml"))}


def one_sentence(error: BpfOomError) -> None:
    """What a person reads; values in it are shown as Python writes them, so that no name can write to the terminal."""
    assert error.cause and error.remedy
    assert all(letter.isprintable() for letter in str(error)), repr(str(error))


@many
@given(texts)
def test_names(text: str) -> None:
    try:
        assert check_name(text) == text
        assert set(text) <= set(string.ascii_lowercase + string.digits + "_-")
    except BpfOomError as error:
        one_sentence(error)


@many
@given(texts, texts, st.booleans())
def test_globs(glob: str, path: str, below: bool) -> None:
    try:
        check_glob(glob)
    except BpfOomError as error:
        one_sentence(error)
        return
    assert not any(part in ("..", ".") for part in glob.split("/"))
    if path.isprintable():
        covers(glob, path, below)
    if "*" not in glob and "?" not in glob:
        assert covers(glob, glob, below)


@many
@given(trees)
def test_selectors(value: Any) -> None:
    try:
        kind, low, high, glob = check_selector(value)
    except BpfOomError as error:
        one_sentence(error)
        return
    assert kind in ("cgroup", "own", "name", "uid") and 0 <= low <= high < 2**32
    assert len(glob.encode("utf-8", "surrogateescape")) < 256


@many
@given(st.data())
def test_parameters(data: st.DataObject) -> None:
    program = data.draw(st.sampled_from(sorted(PROGRAMS)))
    specs, constraints = PROGRAMS[program]["parameters"], PROGRAMS[program]["constraints"]
    names = st.one_of(st.sampled_from(sorted(specs)), texts)
    given_ = data.draw(st.one_of(st.dictionaries(names, st.one_of(trees, st.lists(texts, max_size=40)), max_size=4), trees))
    try:
        params = type_params(specs, constraints, given_, program)
    except BpfOomError as error:
        one_sentence(error)
        return
    wanted = manifest(params=params)
    assert parse(wanted.text(), wanted.name) == wanted
    for name, raw in expected_rodata(wanted).items():
        if isinstance(raw, bytes):
            assert len(raw) == SELECTORS_SIZE and show_selectors(raw)
        else:
            assert isinstance(raw, (int, str)), name
    assert parameter_lines(params)


@many
@given(st.one_of(texts, trees.map(lambda tree: json.dumps(tree, default=str))))
def test_manifests_of_anybody(text: str) -> None:
    try:
        parse(text, "leaf")
    except BpfOomError as error:
        one_sentence(error)


@many
@given(st.data())
def test_manifests_with_one_thing_changed(data: st.DataObject) -> None:
    whole = json.loads(manifest().text())
    place = data.draw(st.sampled_from([*whole, "params.min_usage", "params.other"]))
    value = data.draw(trees)
    if place.startswith("params."):
        whole["params"][place[7:]] = value
    else:
        whole[place] = value
    try:
        found = parse(json.dumps(whole, default=str), "leaf")
    except BpfOomError as error:
        one_sentence(error)
        return
    assert isinstance(found, Manifest) and found.name == "leaf"
    expected_rodata(found)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    root = tmp_path_factory.mktemp("host")
    for name in ("var/lib", "run", "proc", "etc/systemd/system"):
        (root / name).mkdir(parents=True)
    return Paths(str(root))


def outside(paths: Paths) -> list[str]:
    """Everything on the host that is not ours."""
    ours = (paths.state, paths.run)
    every = (os.path.join(directory, name) for directory, below, files in os.walk(paths.root) for name in below + files)
    return sorted(path for path in every if not path.startswith(ours))


arguments = st.lists(
    st.one_of(st.sampled_from(["apply", "status", "--json", "decisions", "unload", "verify", "-n", "-1", "0", "--help"]), texts),
    max_size=4,
).filter(lambda given_: not any(word.startswith("kill") for word in given_))


@many
@given(arguments)
def test_command_lines(host: Paths, capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    before = outside(host)
    try:
        assert main(words, Engine(host)) in (0, 1, 3)
    except SystemExit as end:
        assert end.code in (0, 2)
    except UnicodeEncodeError:
        # What argparse says of an argument that no terminal can show; a real one comes with surrogates escaped.
        assert any("\ud800" <= letter <= "\udfff" for word in words for letter in word)
    capsys.readouterr()
    assert outside(host) == before


file_names = st.one_of(st.sampled_from(["leaf.json", "x.json", ".json", "leaf", "..json"]), texts).filter(
    lambda name: name not in ("", ".", "..") and "/" not in name and "\0" not in name and len(name.encode(errors="replace")) < 200
)


@many
@given(
    st.dictionaries(file_names, st.one_of(st.binary(max_size=60), trees.map(lambda tree: json.dumps(tree, default=str).encode())))
)
def test_manifests_on_disk(host: Paths, files: dict[str, bytes]) -> None:
    store = Writer(host)
    store.switch([manifest()])
    directory = Path(os.path.realpath(os.path.join(host.state, "current")))
    for name, content in files.items():
        try:
            (directory / name).write_bytes(content)
        except (UnicodeEncodeError, IsADirectoryError):
            continue
    before = outside(host)
    found = store.read_set()
    for why in found.broken.values():
        assert why and "\n" not in why
    report = everything(Engine(host))
    assert set(report["policies"]) >= set(found.manifests)
    store.remove_all()
    assert outside(host) == before


@many
@given(st.binary(max_size=200))
def test_pages_of_the_trace_buffer(page: bytes) -> None:
    known = parse_format(
        "ID: 1\n\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n"
        "\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\tfield:int pid;\toffset:8;\tsize:4;\tsigned:1;\n"
        "\tfield:__data_loc char[] comm;\toffset:12;\tsize:4;\tsigned:0;\n"
    )[1]
    for ns, record in records(page.ljust(16, b"\0"), 16):
        assert ns >= 0
        mark(ns, record, known)


@many
@given(st.one_of(texts, trees.map(lambda tree: json.dumps(tree, default=str))))
def test_states_of_the_kill_log(text: str) -> None:
    totals = parse_totals(text)
    assert totals.lost >= 0 and totals.taken >= 0


numbers = st.integers(min_value=-(2**63), max_value=2**64 - 1)
subjects = st.fixed_dictionaries(
    {"pid": numbers, "comm": texts, "path": texts, "cgroup_id": numbers, "adj": numbers}
    | {
        "who": st.fixed_dictionaries(
            dict.fromkeys(("cgroup_id", "score", "usage", "start_time", "pid", "tier", "adj", "verdict"), numbers)
        )
    }
)
COUNTS = ("nr_considered", "nr_protected", "nr_unkillable", "nr_small", "nr_killed", "nr_died")
decisions = st.fixed_dictionaries(
    {"scope": texts, **dict.fromkeys(("ranked", "skipped", "died"), st.lists(subjects, max_size=2))}
    | dict.fromkeys(
        ("seq", "time_ns", "spent_ns", "scope_id", "free_swap", "free_memory", "unmet", "trigger", "mode", "outcome", "error"),
        numbers,
    )
    | dict.fromkeys(COUNTS, numbers)
)


@many
@given(decisions)
def test_decisions(raw: dict[str, Any]) -> None:
    found = readable(raw)
    json.dumps(found)
    for line in lines("leaf", found, 1.0):
        assert line.isprintable()


@many
@given(st.data())
def test_drills(data: st.DataObject) -> None:
    process = st.fixed_dictionaries({"name": texts, "mib": st.integers(), "oom_score_adj": st.integers()})
    asked = {
        "kind": data.draw(st.sampled_from(["memcg", "pressure"])),
        "parent": data.draw(texts),
        "processes": data.draw(st.one_of(st.none(), st.lists(process, max_size=3))),
        "limit_mib": data.draw(st.one_of(st.none(), st.integers())),
        "expect": data.draw(st.lists(texts, max_size=2)),
        "policy": data.draw(st.one_of(st.none(), texts)),
        "witness": "auto",
        "timeout": data.draw(st.integers()),
    }
    try:
        drill = check_drill(asked)
    except BpfOomError as error:
        one_sentence(error)
        return
    assert drill.path.startswith("/") and ".." not in drill.path.split("/")


def test_the_library_was_read() -> None:
    assert "largest_leaf" in PROGRAMS and yaml.safe_load("a: 1") == {"a": 1}
