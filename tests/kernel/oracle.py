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
    protect_extra: list[str] = field(default_factory=list)
    avoid: list[str] = field(default_factory=list)
    prefer: list[str] = field(default_factory=list)
    priorities: dict[str, int] = field(default_factory=dict)
    victim: str = "cgroup"
    shelter: str = "process"
    adj_weight: int = 0
    min_usage: int = 0

    def words(self) -> list[str]:
        words = [f"{name}+{text}" for name in ("protect", "protect_extra", "avoid", "prefer") for text in getattr(self, name)]
        words += [
            f"priorities+{glob}={number}" for glob, number in sorted(self.priorities.items(), key=lambda item: -len(item[0]))
        ]
        words.append(f"victim={('process', 'cgroup', 'oom_group').index(self.victim)}")
        words.append(f"shelter={('process', 'cgroup').index(self.shelter)}")
        return [*words, f"adj_weight={self.adj_weight}", f"min_usage={self.min_usage}"]


def stands_for(glob: str, path: str) -> bool:
    """Whether a glob stands for a cgroup or for one above it."""
    wanted, have = glob.split("/")[1:], path.split("/")[1:]
    return len(have) >= len(wanted) and all(fnmatch.fnmatchcase(name, part) for part, name in zip(wanted, have, strict=False))


def named(selectors: list[str], process: Process) -> bool:
    """By names of root's processes, which all of these are; those of other users are written with an @."""
    globs = [text[5:] for text in selectors if text.startswith("name:") and "@" not in text]
    return any(fnmatch.fnmatchcase(process.name, glob) for glob in globs)


def covered(selectors: list[str], path: str) -> bool:
    return any(text.startswith("/") and stands_for(text, path) for text in selectors)


def owned(selectors: list[str], path: str) -> bool:
    """Whether own:GLOB stands for the cgroup itself."""
    globs = [text[4:] for text in selectors if text.startswith("own:")]
    return any(stands_for(glob, path) and glob.count("/") == path.count("/") for glob in globs)


def protected(process: Process, settings: Settings) -> bool:
    lists = (settings.protect, settings.protect_extra)
    return any(named(each, process) or covered(each, process.cgroup) or owned(each, process.cgroup) for each in lists)


def spared(process: Process, settings: Settings) -> bool:
    return process.adj == -1000 or protected(process, settings)


def tier(settings: Settings, path: str, freed: float, process: Process | None = None) -> int:
    """Who would give back less than min_usage comes after all others."""

    def listed(selectors: list[str]) -> bool:
        return covered(selectors, path) or (process is not None and named(selectors, process))

    if freed < settings.min_usage:
        return -3
    return 1 if listed(settings.prefer) else -1 if listed(settings.avoid) else 0


def adj_score(tree: Tree, settings: Settings, adj: int) -> float:
    return tree.total / 1000 * adj * settings.adj_weight / 100


def bytes_of(processes: list[Process]) -> float:
    return sum(each.mib + OVERHEAD_MIB for each in processes)


def group_may_die(tree: Tree, settings: Settings, path: str) -> bool:
    """The kernel kills a memory.oom.group as one, all but those with -1000: so nobody in it may be protected."""
    group = tree.group_of(path)
    return not group or not any(protected(each, settings) for each in tree.inside(group) if each.adj != -1000)


def sheltered(tree: Tree, settings: Settings, path: str) -> bool:
    """With shelter: cgroup one who may not die shelters the leaf cgroup, or the group that is ranked as one."""
    return settings.shelter == "cgroup" and any(spared(each, settings) for each in tree.inside(path))


@dataclass
class Candidate:
    tier: int
    score: float
    path: str
    process: Process | None = None


CgroupRank = Callable[[Tree, Settings, str, float], float]
ProcessRank = Callable[[Process], float]


def of_cgroups(rank: CgroupRank) -> Callable[[Tree, Settings], list[Candidate]]:
    """A cgroup counts with what its mortal processes would give back; what the others hold stays."""

    def candidates(tree: Tree, settings: Settings) -> list[Candidate]:
        units = set(tree.leaves())
        if settings.victim == "oom_group":
            units = {tree.group_of(path) or path for path in units}
        found = []
        for path in units:
            mortal = [each for each in tree.inside(path) if not spared(each, settings)]
            freed = bytes_of(mortal)
            if not mortal or sheltered(tree, settings, path):
                continue
            if not group_may_die(tree, settings, path):
                continue
            score = rank(tree, settings, path, freed) + adj_score(tree, settings, min(each.adj for each in mortal))
            process = None if settings.victim == "cgroup" else max(mortal, key=lambda each: each.mib)
            found.append(Candidate(tier(settings, path, freed), score, path, process))
        return found

    return candidates


def of_processes(rank: ProcessRank) -> Callable[[Tree, Settings], list[Candidate]]:
    def candidates(tree: Tree, settings: Settings) -> list[Candidate]:
        return [
            Candidate(
                tier(settings, each.cgroup, each.mib + OVERHEAD_MIB, each),
                rank(each) + adj_score(tree, settings, each.adj),
                each.cgroup,
                each,
            )
            for each in tree.processes
            if not spared(each, settings)
            and group_may_die(tree, settings, each.cgroup)
            and not (settings.victim == "cgroup" and sheltered(tree, settings, each.cgroup))
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


#: Those that rank cgroups, of which the largest process dies where only one does.
CGROUP_POLICIES = [POLICIES[name] for name in ("largest_leaf", "over_request", "by_priority")]


def choice(policy: str, tree: Tree, settings: Settings) -> tuple[str, str] | None:
    """Cgroup and process ('' for all) that the policy must choose; ('-', '') is nobody, None: too close to say."""
    ranked = sorted(POLICIES[policy](tree, settings), key=lambda each: (-each.tier, -each.score))
    if not ranked:
        return "-", ""
    best = ranked[0]
    # oom_score_adj from -1000 to 1000 weighs up to twice the total.
    clear = CLEAR_MIB + 2 * TOTAL_MIB * settings.adj_weight / 100
    if len(ranked) > 1 and ranked[1].tier == best.tier and best.score - ranked[1].score < clear:
        return None
    if best.process is None:
        return best.path, ""
    rivals = [each for each in tree.inside(best.path) if each is not best.process and not spared(each, settings)]
    of_cgroup = POLICIES[policy] in CGROUP_POLICIES
    if of_cgroup and any(best.process.mib - each.mib < CLEAR_MIB for each in rivals):
        return None
    return best.path, best.process.name


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
    settings.shelter = rng.choice(("process", "process", "process", "cgroup"))
    if rng.random() < 0.6:
        settings.protect = rng.choice((paths(), ["name:ssh*"], ["name:srv?", *paths()], [f"own:{paths()[0]}"], ["name:ssh*@1-9"]))
    if rng.random() < 0.2:
        settings.protect_extra = rng.choice((paths(), ["name:job*"], [f"own:{paths()[0]}"]))
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
    mortal = [each for each in tree.processes if not spared(each, settings)]
    usages = [each.mib + OVERHEAD_MIB for each in mortal]
    usages += [bytes_of([each for each in tree.inside(path) if each in mortal]) for path in tree.cgroups]
    usages += [bytes_of(tree.inside(path)) for path in tree.cgroups]
    return bool(settings.min_usage) and any(abs(usage - settings.min_usage) < CLEAR_MIB for usage in usages)


def contradicts(settings: Settings) -> bool:
    lists = (settings.protect, settings.protect_extra, settings.avoid, settings.prefer)
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
