# SPDX-License-Identifier: GPL-3.0-or-later
"""Random trees of cgroups and processes, and whom each policy must choose there: the rules once more, in plain Python.

Whoever reads this should find the rules of the policies' documentation in it, and nothing of how the policies are
written. The runner builds the trees (runner/trees.c) and compares the choices of many observing policies with these.
"""

from __future__ import annotations

import fnmatch
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

#: Two candidates whose scores are nearer than so many MiB have no certain order: memory is charged in batches, and a
#: process has more pages than those it asked for.
CLEAR_MIB = 2.5
#: What a process uses beyond what it was told to, about, and how wrong the sum of all may be.
OVERHEAD_MIB = 0.4
TOTAL_MIB = 6
TOP = "/t"


@dataclass
class Cgroup:
    path: str
    low: int = 0  # MiB
    group: bool = False


@dataclass
class Process:
    name: str
    cgroup: str
    mib: int
    adj: int
    started: int


@dataclass
class Tree:
    cgroups: dict[str, Cgroup]
    processes: list[Process]

    def inside(self, path: str) -> list[Process]:
        return [each for each in self.processes if each.cgroup == path or each.cgroup.startswith(path + "/")]

    def leaves(self) -> list[str]:
        return [path for path in self.cgroups if not any(other.startswith(path + "/") for other in self.cgroups)]

    def group_of(self, path: str) -> str:
        """The topmost cgroup with memory.oom.group that holds it, '' when there is none."""
        above = [each for each in self.cgroups.values() if each.group and (path == each.path or path.startswith(each.path + "/"))]
        return min((each.path for each in above), key=len, default="")

    @property
    def total(self) -> float:
        return sum(each.mib + OVERHEAD_MIB for each in self.processes) + 1


@dataclass
class Settings:
    """What a policy was given; `words` is how the runner is told."""

    protect: list[str] = field(default_factory=list)
    avoid: list[str] = field(default_factory=list)
    prefer: list[str] = field(default_factory=list)
    priorities: dict[str, int] = field(default_factory=dict)
    victim: str = "cgroup"
    adj_weight: int = 0
    min_usage: int = 0

    def words(self) -> list[str]:
        words = [f"{name}+{text}" for name in ("protect", "avoid", "prefer") for text in getattr(self, name)]
        words += [
            f"priorities+{glob}={number}" for glob, number in sorted(self.priorities.items(), key=lambda item: -len(item[0]))
        ]
        words.append(f"victim={('process', 'cgroup', 'oom_group').index(self.victim)}")
        return [*words, f"adj_weight={self.adj_weight}", f"min_usage={self.min_usage}"]


def stands_for(glob: str, path: str) -> bool:
    """Whether a glob stands for a cgroup or for one above it."""
    wanted, have = glob.split("/")[1:], path.split("/")[1:]
    return len(have) >= len(wanted) and all(fnmatch.fnmatchcase(name, part) for part, name in zip(wanted, have, strict=False))


def named(selectors: list[str], process: Process) -> bool:
    return any(text.startswith("name:") and fnmatch.fnmatchcase(process.name, text[5:]) for text in selectors)


def covered(selectors: list[str], path: str) -> bool:
    return any(text.startswith("/") and stands_for(text, path) for text in selectors)


def protected(process: Process, settings: Settings) -> bool:
    return named(settings.protect, process) or covered(settings.protect, process.cgroup)


def spared(process: Process, settings: Settings) -> bool:
    return process.adj == -1000 or protected(process, settings)


def tier(settings: Settings, path: str, process: Process | None = None) -> int:
    def listed(selectors: list[str]) -> bool:
        return covered(selectors, path) or (process is not None and named(selectors, process))

    return 1 if listed(settings.prefer) else -1 if listed(settings.avoid) else 0


def adj_score(tree: Tree, settings: Settings, adj: int) -> float:
    return tree.total / 1000 * adj * settings.adj_weight / 100


def single(tree: Tree, settings: Settings, process: Process) -> bool:
    """Whether one process may die. The kernel takes its memory.oom.group along, but for those with -1000."""
    group = tree.group_of(process.cgroup)
    others = [each for each in tree.inside(group) if each.adj != -1000] if group else []
    return not spared(process, settings) and not any(protected(each, settings) for each in others)


@dataclass
class Candidate:
    tier: int
    score: float
    path: str
    process: Process | None = None


CgroupRank = Callable[[Tree, Settings, str, float], float]
ProcessRank = Callable[[Process], float]


def of_cgroups(rank: CgroupRank) -> Callable[[Tree, Settings], list[Candidate]]:
    def candidates(tree: Tree, settings: Settings) -> list[Candidate]:
        units = set(tree.leaves())
        if settings.victim == "oom_group":
            units = {tree.group_of(path) or path for path in units}
        found = []
        for path in units:
            inside = tree.inside(path)
            usage = sum(each.mib + OVERHEAD_MIB for each in inside)
            if not inside or usage < settings.min_usage or covered(settings.protect, path):
                continue
            score = rank(tree, settings, path, usage) + adj_score(tree, settings, min(each.adj for each in inside))
            found.append(Candidate(tier(settings, path), score, path))
        return found

    return candidates


def of_processes(rank: ProcessRank) -> Callable[[Tree, Settings], list[Candidate]]:
    def candidates(tree: Tree, settings: Settings) -> list[Candidate]:
        return [
            Candidate(tier(settings, each.cgroup, each), rank(each) + adj_score(tree, settings, each.adj), each.cgroup, each)
            for each in tree.processes
            if not spared(each, settings) and each.mib + OVERHEAD_MIB >= settings.min_usage
        ]

    return candidates


def priority(settings: Settings, path: str) -> int:
    globs = [glob for glob in settings.priorities if stands_for(glob, path)]
    return settings.priorities[max(globs, key=len)] if globs else 500


POLICIES: dict[str, Callable[[Tree, Settings], list[Candidate]]] = {
    "largest_leaf": of_cgroups(lambda _tree, _settings, _path, usage: usage),
    "over_request": of_cgroups(lambda tree, _settings, path, usage: usage - tree.cgroups[path].low),
    "by_priority": of_cgroups(lambda _tree, settings, path, usage: (1000 - priority(settings, path)) * 1e6 + usage),
    "largest_process": of_processes(lambda process: process.mib),
    # A later start counts more than any size.
    "youngest": of_processes(lambda process: process.started * 1e6),
}


def may_die(tree: Tree, settings: Settings, candidate: Candidate) -> Process | str | None:
    """The process or the cgroup that dies for a candidate; None: it cannot."""
    if settings.victim == "cgroup":
        inside = [each for each in tree.processes if each.cgroup == candidate.path]
        return None if any(spared(each, settings) for each in inside) else candidate.path
    process = candidate.process
    if process is None:
        killable = [each for each in tree.inside(candidate.path) if not spared(each, settings)]
        process = max(killable, key=lambda each: each.mib, default=None)
    return process if process is not None and single(tree, settings, process) else None


def choice(policy: str, tree: Tree, settings: Settings) -> tuple[str, str] | None:
    """Cgroup and process ('' for all) that the policy must choose; ('-', '') is nobody, None: too close to say."""
    ranked = sorted(POLICIES[policy](tree, settings), key=lambda each: (-each.tier, -each.score))
    for at, candidate in enumerate(ranked):
        victim = may_die(tree, settings, candidate)
        # Only those matter that could die in its place.
        rivals = [each for each in ranked[at + 1 :] if each.tier == candidate.tier and may_die(tree, settings, each) is not None]
        if victim is None:
            continue
        # oom_score_adj from -1000 to 1000 weighs up to twice the total.
        clear = CLEAR_MIB + 2 * TOTAL_MIB * settings.adj_weight / 100
        if rivals and candidate.score - rivals[0].score < clear:
            return None
        return candidate.path, victim.name if isinstance(victim, Process) else ""
    return "-", ""


def random_tree(rng: random.Random) -> Tree:
    cgroups = {}
    for number in range(rng.randint(3, 6)):
        path = f"{TOP}/{rng.choice(('web', 'db', 'batch', 'user'))}{number}"
        cgroups[path] = Cgroup(path, low=rng.choice((0, 0, 6, 12)))
        if rng.random() < 0.4:
            cgroups[path].group = rng.random() < 0.6
            cgroups[path].low = 0
            for child in range(rng.randint(1, 3)):
                inner = f"{path}/part{child}"
                cgroups[inner] = Cgroup(inner, low=rng.choice((0, 5)), group=rng.random() < 0.2)
    tree = Tree(cgroups, [])
    sizes = rng.sample(range(5, 41, 3), 9)
    for started, mib in enumerate(sizes[: rng.randint(5, 9)]):
        adj = rng.choice((0, 0, 0, 0, 200, 800, -300, -1000))
        name = f"{rng.choice(('job', 'srv', 'ssh'))}{started}"
        tree.processes.append(Process(name, rng.choice(tree.leaves()), mib, adj, started))
    # The kernel must find enough to kill, lest the OOM has no end.
    if sum(each.mib for each in tree.processes if each.adj != -1000) < 20:
        for each in tree.processes:
            each.adj = 0
    # Runs into the limit, and nobody may kill it.
    path = f"{TOP}/grower"
    cgroups[path] = Cgroup(path)
    tree.processes.append(Process("grower", path, 2, -1000, len(tree.processes)))
    return tree


def random_settings(rng: random.Random, tree: Tree, policy: str) -> Settings:
    def paths() -> list[str]:
        path = rng.choice(list(tree.cgroups))
        return [rng.choice((path, path[:-1] + "?", f"{TOP}/{path.split('/')[2][:2]}*"))]

    def selectors() -> list[str]:
        if policy in ("largest_process", "youngest") and rng.random() < 0.4:
            return [rng.choice(("name:ssh*", "name:job?", f"name:{rng.choice(tree.processes).name}"))]
        return paths()

    settings = Settings(victim=rng.choice(("process", "cgroup", "oom_group")))
    if rng.random() < 0.5:
        settings.protect = rng.choice((paths(), ["name:ssh*"], ["name:srv?", *paths()]))
    if rng.random() < 0.3:
        settings.avoid = selectors()
    if rng.random() < 0.3:
        settings.prefer = selectors()
    if rng.random() < 0.3:
        settings.adj_weight = rng.choice((10, 50, 100))
    if rng.random() < 0.3:
        settings.min_usage = rng.choice((7, 16, 28))
    if policy == "by_priority":
        for _ in range(rng.randint(1, 3)):
            settings.priorities[paths()[0]] = rng.choice((0, 10, 500, 1000))
        settings.adj_weight = 0
    if policy == "youngest":
        settings.adj_weight = 0
    return settings


def near_min_usage(tree: Tree, settings: Settings) -> bool:
    """Whether somebody's size is so near to min_usage that it may lie on either side."""
    usages = [each.mib for each in tree.processes]
    usages += [sum(each.mib for each in tree.inside(path)) for path in tree.cgroups]
    return bool(settings.min_usage) and any(abs(usage + OVERHEAD_MIB - settings.min_usage) < CLEAR_MIB for usage in usages)


def contradicts(settings: Settings) -> bool:
    lists = (settings.protect, settings.avoid, settings.prefer)
    return any(set(one) & set(other) for at, one in enumerate(lists) for other in lists[at + 1 :])


def description(seed: int, tries: int = 10) -> Iterator[str]:
    """One tree and what policies must choose in it, as lines for the runner."""
    rng = random.Random(seed)
    tree = random_tree(rng)
    yield f"tree {seed}"
    for cgroup in tree.cgroups.values():
        inner = cgroup.path not in tree.leaves()
        yield f"cgroup {cgroup.path[1:]} {int(inner)} {cgroup.low} {int(cgroup.group)}"
    for process in tree.processes:
        yield f"hog {process.name} {process.cgroup[1:]} {process.mib} {process.adj}"
    asked = 0
    while asked < tries:
        policy = rng.choice(list(POLICIES))
        settings = random_settings(rng, tree, policy)
        if contradicts(settings) or near_min_usage(tree, settings):
            continue
        victim = choice(policy, tree, settings)
        if victim is None:
            continue
        asked += 1
        yield f"policy {policy} {victim[0]} {victim[1] or '-'} {' '.join(settings.words())}"
    yield "end"
