# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests carried out on a host that can persist but not load: what is sent, persisted, compared and removed."""

from __future__ import annotations

import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._common.errors import BpfOomError
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine.compiler import compile_bundle, find_toolchain, input_digest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine.engine import Engine, Survey, Wish
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine.reader import matching_cgroups
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._engine.run import run
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._kernel.capability import Capability
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._ops.report import report
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._ops.sets import back_up
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.manifest import Manifest, bundle_digest, digest
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.paths import Paths
from ansible_collections.linuxmm.bpf_oom.plugins.module_utils._store.store import host_lock
from ansible_collections.linuxmm.bpf_oom.tests.unit.plugins.module_utils.common import manifest

FILES = {"own.bpf.c": "int f(void) { return 1; }\n"}
PARAMS = {"limit": {"type": "u32", "value": 3}}


class Host:
    """An empty host, and somebody who sends it what it asks for."""

    def __init__(self, root: Path) -> None:
        for name in ("var/lib", "run"):
            (root / name).mkdir(parents=True)
        self.root = root
        self.paths = Paths(str(root))
        self.blobs: dict[str, bytes] = {}

    def by_controller(self, **changes: Any) -> dict[str, Any]:
        toolchain = find_toolchain()
        data = compile_bundle("own.bpf.c", FILES, "own.bpf.c", toolchain)
        inputs = input_digest("own.bpf.c", bundle_digest(FILES), toolchain.identity)
        self.blobs[inputs] = data
        known = {"compiler": toolchain.identity, "inputs": inputs, "object": digest(data)}
        return {**self.by_host(), **known, **changes}

    def by_host(self) -> dict[str, Any]:
        text = json.dumps(sorted(FILES.items())).encode()
        self.blobs[digest(text)] = text
        common = {"kind": "oom", "order": 100, "program": "own.bpf.c", "source": "src", "params": PARAMS}
        return {**common, "bundle": digest(text), "main": "own.bpf.c"}

    def ask(self, policies: dict[str, Any], check: bool = False, **changes: Any) -> dict[str, Any]:
        request = {"state": "present", "exclusive": True, "on_incapable": "persist_only", "policies": policies, "absent": []}
        return run({**request, "blobs": {}, **changes}, check, Engine(self.paths))

    def ensure(self, policies: dict[str, Any], check: bool = False, **changes: Any) -> dict[str, Any]:
        """What the action plugin does: call, send what is needed, call again."""
        result = self.ask(policies, check, **changes)
        if "needs" not in result:
            return result
        sent = {}
        for name in result["needs"]:
            (self.root / name).write_bytes(self.blobs[name])
            sent[name] = str(self.root / name)
        return self.ask(policies, check, blobs=sent, **changes)

    def tree(self) -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in (self.root / "var").rglob("*"))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    if os.geteuid() != 0:
        pytest.fail("the engine is for root: run these tests as root")
    return Host(tmp_path)


@pytest.mark.parametrize("where", ["by_controller", "by_host"])
def test_the_four_steps(host: Host, where: str) -> None:
    policies = {"own": getattr(host, where)()}
    before = host.tree()
    assert host.ensure(policies, check=True)["changed"] is True
    assert host.tree() == before

    first = host.ensure(policies)
    assert first["changed"] is True
    assert first["diff"]["before"] == ""
    assert "  limit: 3\n  persisted: yes\n  loaded: no\n" in first["diff"]["after"]
    assert first["policies"]["own"]["persisted"] is True
    assert first["policies"]["own"]["active"] is False
    assert first["policies"]["own"]["why"]
    assert "is not loaded" in first["warnings"][0]

    again = host.ask(policies)
    assert "needs" not in again, "one call must do when nothing changed"
    assert again["changed"] is False
    assert again["diff"]["before"] == again["diff"]["after"]
    assert host.ask(policies, check=True)["changed"] is False


def test_the_first_call_says_what_the_host_lacks(host: Host) -> None:
    policy = host.by_controller()
    assert host.ask({"a": policy, "b": policy}) == {"changed": False, "needs": [policy["inputs"]]}
    policy = host.by_host()
    assert host.ask({"a": policy, "b": policy}) == {"changed": False, "needs": [policy["bundle"]]}


def test_an_incapable_host_is_refused(host: Host) -> None:
    before = host.tree()
    with pytest.raises(BpfOomError, match="; "):
        host.ensure({"own": host.by_controller()}, on_incapable="fail")
    with pytest.raises(BpfOomError, match="; "):
        host.ensure({"own": host.by_controller()}, check=True, on_incapable="fail")
    assert host.tree() == before


def test_every_reason_stands_in_one_message_the_kernel_first(host: Host) -> None:
    """FAULTS.md B11: `msg` had cgroup v2 alone; and a check of a host without libbpf said nothing of its kernel."""
    own = {"own": host.by_controller(), "pressure": host.by_controller(kind="psi")}
    with pytest.raises(BpfOomError) as caught:
        host.ask(own, on_incapable="fail")
    said = str(caught.value)
    wanted = ["/sys/kernel/btf/vmlinux", "not cgroup v2", "PSI is off", "no BPF file system", "libbpf"]
    places = [said.lower().index(each.lower()) for each in wanted]
    assert places[0] == min(places)
    assert caught.value.details == ""
    warnings = host.ensure(own)["warnings"]
    assert warnings[0].startswith("Persisted, but 'own' is not loaded: The kernel has no /sys/kernel/btf/vmlinux")
    assert "PSI is off" in warnings[1] and "PSI is off" not in warnings[0]


@pytest.mark.parametrize(("announced", "blocked"), [(False, ["own"]), (True, [])])
def test_a_check_before_libbpf_is_there_knows_of_the_kernel(host: Host, announced: bool, blocked: list[str]) -> None:
    capability = Capability()
    capability.add("kernel", "the kernel x has no struct bpf_oom_ops", "run the role", "oom")
    capability.add("libbpf_missing", "libbpf.so.1 is not installed", "install it")
    engine = Engine(host.paths)
    survey = Survey(capability, engine.store.read_set(), {}, [], [])
    assert list(engine.blocked(survey, {"own": "oom", "pressure": "psi"}, check=True, announced=announced)) == blocked
    assert list(engine.blocked(survey, {"own": "oom"}, check=False)) == ["own"]


def test_an_incapable_host_is_skipped(host: Host) -> None:
    before = host.tree()
    result = host.ensure({"own": host.by_controller()}, on_incapable="skip")
    assert result["changed"] is False
    assert result["warnings"][0].startswith("Nothing was done on this host: ")
    assert host.tree() == before


def test_a_diff_is_in_chain_order_and_says_what_an_empty_list_means(host: Host) -> None:
    """FAULTS.md B12: sorted by name, scope and avoid both (none), and protect one line of 370 characters."""
    lists = {"scope": [], "avoid": [], "protect": ["/init.scope", "name:sshd"], "prefer": {"/a": 1, "/b": 2}}
    kinds = {name: "weights" if isinstance(value, dict) else "selectors" for name, value in lists.items()}
    params = {name: {"type": kinds[name], "value": value} for name, value in lists.items()}
    policies = {
        "a-last": host.by_controller(order=30),
        "b-first": host.by_controller(order=10, params=params),
        "c-other": host.by_controller(order=1, kind="psi"),
    }
    after = host.ensure(policies)["diff"]["after"]
    assert [each[:-1] for each in after.splitlines() if not each.startswith(" ")] == ["b-first", "a-last", "c-other"]
    block = after[after.index("b-first:") : after.index("a-last:")].splitlines()[2:-2]
    listed = ["  protect:", "    /init.scope", "    name:sshd", "  scope: everything"]
    assert block == ["  avoid: nobody", "  prefer:", "    /a=1", "    /b=2", *listed]
    swapped = host.ensure({**policies, "a-last": host.by_controller(order=5)}, check=True)["diff"]
    assert swapped["before"].index("b-first") < swapped["before"].index("a-last")
    assert swapped["after"].index("a-last") < swapped["after"].index("b-first")


def test_a_changed_parameter_shows(host: Host) -> None:
    host.ensure({"own": host.by_controller()})
    changed = {"own": host.by_controller(params={"limit": {"type": "u32", "value": 4}})}
    foretold = host.ensure(changed, check=True)
    done = host.ensure(changed)
    assert foretold["changed"] is done["changed"] is True
    assert foretold["diff"] == done["diff"]
    assert "  limit: 3\n" in done["diff"]["before"]
    assert "  limit: 4\n" in done["diff"]["after"]


@pytest.mark.parametrize("answer", ["fail", "skip"])
def test_a_host_on_which_nothing_was_done_keeps_nothing(host: Host, answer: str) -> None:
    if answer == "fail":
        with pytest.raises(BpfOomError):
            host.ask({"a": host.by_controller()}, on_incapable=answer)
    else:
        assert host.ask({"a": host.by_controller()}, on_incapable=answer)["changed"] is False
    assert list(host.root.rglob("*linuxmm*")) == []


def test_what_an_interrupted_change_left_is_told_and_removed(host: Host) -> None:
    policies = {"a": host.by_controller()}
    host.ensure(policies)
    left = Path(host.paths.state, "objects", "0" * 64 + ".o")
    left.write_bytes(b"")
    foretold = host.ensure(policies, check=True)
    assert [each["aspect"] for each in foretold["drift"] if each["aspect"] != "capability"] == ["set"]
    assert f"objects/{left.name}: left" in foretold["diff"]["before"]
    assert left.exists()
    assert host.ensure(policies)["changed"] is True
    assert not left.exists()
    assert host.ensure(policies)["changed"] is False


def test_a_folder_of_kept_sets_that_cannot_be_trusted_keeps_nobody_from_looking(host: Host) -> None:
    policies = {"a": host.by_controller()}
    host.ensure(policies)
    Path(host.paths.state, "kept").symlink_to("/")
    assert host.ensure(policies)["changed"] is False
    assert report(Engine(host.paths))["policies"]["a"]["persisted"]


def test_exclusive_drops_and_otherwise_the_rest_stays(host: Host) -> None:
    policy = host.by_controller()
    host.ensure({"a": policy})
    assert set(host.ensure({"b": policy}, exclusive=False)["policies"]) == {"a", "b"}
    assert set(host.ensure({}, exclusive=False, absent=["a"])["policies"]) == {"b"}
    assert host.ensure({}, exclusive=False, absent=["a"])["changed"] is False
    assert set(host.ensure({"c": policy})["policies"]) == {"c"}


@pytest.mark.parametrize("file", ["*.o", "own.json"])
@pytest.mark.parametrize("text", [b"damaged", None])
def test_what_is_damaged_or_removed_is_healed(host: Host, file: str, text: bytes | None) -> None:
    policies = {"own": host.by_controller()}
    host.ensure(policies)
    (damaged,) = [path for path in Path(host.paths.state).rglob(file) if "current" not in path.parts]
    whole = damaged.read_bytes()
    damaged.unlink()
    if text is not None:
        damaged.write_bytes(text)
        damaged.chmod(0o600)
    assert host.ensure(policies, check=True)["changed"] is True
    assert host.ensure(policies)["changed"] is True
    assert damaged.read_bytes() == whole
    assert host.ensure(policies)["changed"] is False


def test_what_arrives_damaged_is_refused(host: Host) -> None:
    policy = host.by_controller()
    host.blobs[policy["inputs"]] = b"damaged"
    before = host.tree()
    with pytest.raises(BpfOomError, match="is damaged; run again"):
        host.ensure({"own": policy})
    assert host.tree() == before


def test_a_source_that_does_not_compile_here_changes_nothing(host: Host) -> None:
    host.ensure({"own": host.by_host()})
    before = host.tree()
    text = json.dumps([["own.bpf.c", "nonsense\n"]]).encode()
    host.blobs[digest(text)] = text
    with pytest.raises(BpfOomError, match="does not compile"):
        host.ensure({"own": {**host.by_host(), "bundle": digest(text)}})
    assert host.tree() == before


def test_absent_leaves_nothing(host: Host) -> None:
    host.ensure({"own": host.by_controller()})
    assert host.ask({}, check=True, state="absent")["changed"] is True
    assert host.ask({}, state="absent")["changed"] is True
    assert host.tree() == ["var/lib"]
    assert not Path(host.paths.run).exists()
    assert host.ask({}, state="absent")["changed"] is False


def killed_at(call: int, host: Host, policies: dict[str, Any]) -> bool:
    """Whether a child that is killed at its n-th call into the file system was killed before it was done."""

    def deadly(function: Any) -> Any:
        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal call
            if call == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            call -= 1
            return function(*arguments, **options)

        return counted

    child = os.fork()
    if child == 0:
        for name in ("open", "mkdir", "fsync", "rename", "symlink", "unlink", "rmdir"):
            setattr(os, name, deadly(getattr(os, name)))
        try:
            host.ensure(policies)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_killed_anywhere_it_leaves_the_old_or_the_new(host: Host) -> None:
    old, new = ({"own": host.by_controller(params={"limit": {"type": "u32", "value": value}})} for value in (3, 4))
    seen = set()
    for call in range(200):
        host.ensure(old)
        killed = killed_at(call, host, new)
        stored = Engine(host.paths).store.read_set()
        assert (stored.problem, stored.broken) == ("", {})
        assert Engine(host.paths).store.object_problem(stored.manifests["own"]) == ""
        seen.add((killed, stored.manifests["own"].params["limit"]["value"]))
        host.ensure(new)
        assert host.ensure(new)["changed"] is False
        assert not [name for name in host.tree() if "/." in name], "a temporary file stayed"
        if not killed:
            break
    assert seen == {(True, 3), (True, 4), (False, 4)}


def scoped(glob: str) -> Manifest:
    return manifest(params={"scope": {"type": "selectors", "value": [glob]}})


@pytest.mark.parametrize(
    ("glob", "found"),
    [
        ("/a.slice/db@*.service", ["/a.slice/db@1.service", "/a.slice/db@2.service"]),
        ("/*/db@?.service", ["/a.slice/db@1.service", "/a.slice/db@2.service"]),
        ("/a.slice", ["/a.slice"]),
        ("/a.slice/we\\x2dird", ["/a.slice/we\\x2dird"]),
        ("/a.slice/[w]*", []),
        ("/nowhere/*", []),
        ("/a.slice/memory.max/x", []),
    ],
)
def test_the_cgroups_that_a_glob_stands_for_now(tmp_path: Path, glob: str, found: list[str]) -> None:
    cgroups = tmp_path / "sys/fs/cgroup"
    for name in ("a.slice/db@1.service/below", "a.slice/db@2.service", "a.slice/we\\x2dird", "b.slice"):
        (cgroups / name).mkdir(parents=True)
        (cgroups / name / "memory.max").touch()
    for name in ("a.slice", "a.slice/db@1.service"):
        (cgroups / name / "memory.max").touch()
    # Without the memory controller nothing can be done in it.
    (cgroups / "a.slice/db@3.service").mkdir()
    ids = matching_cgroups(Paths(str(tmp_path)), [scoped(glob)])[glob]
    assert sorted(ids) == found
    assert all(number == (cgroups / path[1:]).stat().st_ino for path, number in ids.items())


def test_a_chain_has_a_limit(host: Host) -> None:
    engine = Engine(host.paths)
    chain = {f"p{number}": manifest(name=f"p{number}") for number in range(33)}
    wish = Wish(chain, set(chain), set())
    with pytest.raises(BpfOomError, match="33 OOM policies; give 32 at most"):
        engine.plan(engine.survey(), wish, {}, {})


def test_pins_without_a_policy_are_told_of_and_removed(host: Host) -> None:
    """Whoever removed the link by hand left the rest, tracing programs among it."""
    pins = Path(host.paths.pins) / "gone"
    pins.mkdir(parents=True)
    (pins / "decision_victim").touch()
    assert "pins of policy 'gone' are left" in " ".join(report(Engine(host.paths))["problems"])
    checked = host.ensure({}, check=True)
    assert checked["changed"] and "gone: pins without a policy" in checked["diff"]["before"]
    assert pins.exists()
    assert host.ensure({})["changed"]
    assert not pins.exists()
    assert not host.ensure({})["changed"]


def test_what_a_change_makes_meanwhile_is_not_told_of_as_left(host: Host) -> None:
    looked = threading.Event()

    class Watched(Engine):
        def survey(self) -> Survey:
            found = super().survey()
            looked.set()
            return found

    pins = Path(host.paths.pins) / "coming"
    with ThreadPoolExecutor() as pool:
        with host_lock(host.paths):
            pins.mkdir(parents=True)
            told = pool.submit(report, Watched(host.paths))
            assert looked.wait(timeout=60)
            pins.rmdir()
        assert told.result()["problems"] == []


def limited(host: Host, limit: int) -> dict[str, Any]:
    return {"own": host.by_controller(params={"limit": {"type": "u32", "value": limit}})}


def persisted(host: Host) -> dict[str, Any]:
    return {name: found.params["limit"]["value"] for name, found in Engine(host.paths).store.read_set().manifests.items()}


def back(host: Host, state: str, check: bool = False, name: str = "rollout") -> dict[str, Any]:
    return back_up(name, state, check, Engine(host.paths))


def test_a_kept_set_comes_back_with_its_objects(host: Host) -> None:
    host.ensure(limited(host, 3))
    before = host.tree()
    assert back(host, "kept", check=True)["changed"] and host.tree() == before
    assert back(host, "kept")["changed"] and not back(host, "kept")["changed"]
    host.ensure({}, exclusive=True)
    assert persisted(host) == {}
    # Nobody sends anything: the object is still there.
    foretold = back(host, "restored", check=True)
    assert foretold["changed"] and persisted(host) == {}
    assert back(host, "restored")["diff"] == foretold["diff"]
    assert persisted(host) == {"own": 3}
    assert not back(host, "restored")["changed"]


def test_restoring_undoes_a_change_and_what_was_added(host: Host) -> None:
    host.ensure(limited(host, 3))
    back(host, "kept")
    host.ensure({**limited(host, 4), "more": host.by_controller()})
    assert persisted(host) == {"own": 4, "more": 3}
    drift = back(host, "restored")["drift"]
    assert ("own", "parameter") in [(each["policy"], each["aspect"]) for each in drift]
    assert persisted(host) == {"own": 3}


def test_a_host_without_policies_can_be_kept_and_restored(host: Host) -> None:
    assert back(host, "kept")["changed"]
    host.ensure(limited(host, 3))
    back(host, "restored")
    assert persisted(host) == {}


def test_a_forgotten_set_leaves_nothing(host: Host) -> None:
    host.ensure(limited(host, 3))
    back(host, "kept")
    host.ensure({}, exclusive=True)
    assert [path for path in host.tree() if path.endswith(".o")]
    assert back(host, "absent")["changed"] and not back(host, "absent")["changed"]
    assert not [path for path in host.tree() if path.endswith(".o")]
    with pytest.raises(BpfOomError, match="No set is kept as 'rollout'"):
        back(host, "restored")


@pytest.mark.parametrize("name", ["", "../x", "A", "a/b", ".x"])
def test_names_of_kept_sets(host: Host, name: str) -> None:
    with pytest.raises(BpfOomError, match="is no policy name"):
        back(host, "kept", name=name)
    assert not back(host, "absent", name=name)["changed"]


def test_a_damaged_set_is_neither_kept_nor_restored(host: Host) -> None:
    host.ensure(limited(host, 3))
    back(host, "kept")
    (Path(host.paths.state) / "current" / "own.json").write_text("{")
    with pytest.raises(BpfOomError, match="damaged and cannot be kept"):
        back(host, "kept")
    with pytest.raises(BpfOomError, match="kept as 'rollout' is damaged"):
        back(host, "restored")
