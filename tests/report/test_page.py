# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of a fleet in a real browser: what it shows, sorts and filters, by keyboard, whatever names hosts and cgroups have."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOW = 1_800_000_000.0
HOSTILE = '</script><script>document.title = "owned"</script>"\'&<img src=x onerror="document.title = 1">'


def _decision(ago: float, cgroup: str, booted: float) -> dict[str, Any]:
    died = [{"pid": 1, "comm": "x", "cgroup": cgroup, "cgroup_id": 1, "oom_score_adj": 0}]
    return {"outcome": "killed", "time_ns": int((NOW - ago - booted) * 1e9), "died": died}


def _host(state: str, kills: int = 0, **changed: Any) -> dict[str, Any]:
    booted = NOW - 90000
    decisions = [_decision(1000.0 * number, f"/batch.slice/job{number % 10}.service", booted) for number in range(kills)]
    policy = {
        "program": "largest_leaf",
        "object": "0123456789abcdef",
        "active": state == "as_wanted",
        "why": "" if state == "as_wanted" else "it is not loaded",
        "limits": ["vm.panic_on_oom is 1; set it to 0."] if kills == 12 else [],
        "counters": {"nr_kills": kills},
        "decisions": decisions,
    }
    plain = {"state": state, "why": "", "kernel": "6.12.117", "drift": [], "booted": booted, "policies": {"largest": policy}}
    return {**plain, **changed}


def fleet() -> dict[str, Any]:
    hosts = {f"web{number}": _host("as_wanted", kills=number) for number in range(1, 13)}
    drift = [{"policy": "largest", "aspect": "link", "what": "it is not registered"}]
    hosts["db1"] = _host("drifted", why="1 differences", drift=drift)
    hosts["old1"] = _host("incapable", why="no struct bpf_oom_ops", policies={})
    hosts["gone1"] = _host("unreachable", why="No route to host", policies={}, kernel=None, booted=None)
    hosts[HOSTILE] = _host(
        "failed",
        why=HOSTILE,
        kernel=HOSTILE,
        drift=[{"policy": HOSTILE, "aspect": "foreign", "what": HOSTILE}],
        policies={HOSTILE: {**_host("drifted")["policies"]["largest"], "decisions": [_decision(5.0, HOSTILE, NOW - 90000)]}},
    )
    return hosts


def render(hosts: dict[str, Any], directory: pathlib.Path) -> pathlib.Path:
    """The page, by the template and the filter of the playbook, as Ansible writes it."""
    (directory / "hosts.json").write_text(json.dumps({"hosts_found": hosts}))
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": {"report": f"{{{{ hosts_found | linuxmm.bpf_oom.fleet_report({NOW!r}) }}}}"},
        "tasks": [
            {
                "ansible.builtin.template": {
                    "src": str(ROOT / "playbooks/templates/report.html.j2"),
                    "dest": str(directory / "report.html"),
                    "mode": "0644",
                }
            }
        ],
    }
    (directory / "play.json").write_text(json.dumps([play]))
    command = ["ansible-playbook", "-i", "localhost,", "-e", f"@{directory / 'hosts.json'}", str(directory / "play.json")]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return directory / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Chromium refuses its sandbox to root; the only page it opens is ours.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return render(fleet(), tmp_path_factory.mktemp("report"))


@pytest.fixture
def page(browser: Browser, page_file: pathlib.Path) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1200, "height": 1600})
    fetched: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: fetched.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(page_file.as_uri())
    yield page
    assert [url for url in fetched if not url.startswith("data:")] == [page_file.as_uri()]
    assert said == []
    page.close()


def shown(page: Page, table: str = "hosts-table") -> list[str]:
    return page.locator(f"#{table} tbody tr:visible th").all_inner_texts()


def test_every_host_is_shown_with_its_state(page: Page) -> None:
    assert sorted(shown(page)) == sorted(fleet())
    words = dict(zip(shown(page), page.locator("#hosts-table .state").all_inner_texts(), strict=True))
    assert words["web1"] == "as wanted"
    assert words["gone1"] == "unreachable"
    assert page.locator(".states button").all_inner_texts() == [
        *("12\nas wanted", "1\ndrifted", "1\nno capable kernel", "1\nunreachable", "1\nfailed")
    ]


def test_a_policy_that_does_not_always_act_says_so(page: Page) -> None:
    rows = page.locator("#hosts-table tbody tr", has_text="not always: vm.panic_on_oom is 1; set it to 0.")
    assert rows.locator("th").all_inner_texts() == ["web12"]


def test_names_are_text_whatever_they_hold(page: Page) -> None:
    assert page.title() == f"OOM and PSI policies of {len(fleet())} hosts, 2027-01-15 08:00 UTC"
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 1
    assert HOSTILE in shown(page)
    assert HOSTILE in page.locator("figure .legend").first.inner_text()


def test_a_column_sorts_by_keyboard_both_ways(page: Page) -> None:
    for _press in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Kills":
            break
    page.keyboard.press("Enter")
    kills = [int(each) for each in page.locator("#hosts-table tbody td:last-child").all_inner_texts()]
    assert kills == sorted(kills)
    page.keyboard.press("Enter")
    assert shown(page)[0] == "web12"  # by number, not by letters
    heads = page.locator("#hosts-table thead th")
    assert [each.get_attribute("aria-sort") for each in heads.all()] == [None] * 5 + ["descending"]


def test_hosts_sort_by_the_numbers_in_their_names(page: Page) -> None:
    page.locator("#hosts-table thead button", has_text="Host").click()
    webs = [each for each in shown(page) if each.startswith("web")]
    assert webs == [f"web{number}" for number in range(1, 13)]


def test_a_state_shows_only_its_hosts(page: Page) -> None:
    button = page.locator(".states button", has_text="drifted")
    button.focus()
    page.keyboard.press("Space")
    assert shown(page) == ["db1"]
    assert button.get_attribute("aria-pressed") == "true"
    assert page.locator("#hosts-table caption").inner_text() == f"1 of {len(fleet())}"
    assert len(shown(page, "policies-table")) == 2  # policies have no state
    page.keyboard.press("Space")
    assert len(shown(page)) == len(fleet())


def test_text_filters_rows(page: Page) -> None:
    page.locator("[data-filter=hosts-table]").fill("no route")
    assert shown(page) == ["gone1"]


def test_differences_unfold(page: Page) -> None:
    row = page.locator("#hosts-table tr", has_text="db1")
    assert not row.locator("li", has_text="it is not registered").is_visible()
    row.locator("summary").focus()
    page.keyboard.press("Enter")
    assert row.locator("li", has_text="largest, link: it is not registered").is_visible()


def test_plots_hold_every_kill(page: Page) -> None:
    kills = sum(range(1, 13)) + 1
    for number, series in enumerate((2, 8)):  # two policies; of eleven cgroups seven and the others
        legend = page.locator("figure .legend").nth(number).locator("li").all_inner_texts()
        assert len(legend) == series
        assert sum(int(each.rsplit(": ", 1)[1]) for each in legend) == kills
        bars = page.locator("svg").nth(number).locator("rect title").all_text_contents()
        assert sum(int(each.rsplit(": ", 1)[1]) for each in bars) == kills


def test_it_fits_a_narrow_screen(browser: Browser, page_file: pathlib.Path) -> None:
    page = browser.new_page(viewport={"width": 1000, "height": 800})
    page.goto(page_file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.close()


def test_a_fleet_without_kills_has_no_plots(browser: Browser, tmp_path: pathlib.Path) -> None:
    page = browser.new_page()
    page.goto(render({"web1": _host("as_wanted")}, tmp_path).as_uri())
    assert page.locator("svg").count() == 0
    assert page.get_by_text("No policy has killed anybody").is_visible()
    page.close()


def test_pictures_for_whoever_looks(page: Page) -> None:
    target = pathlib.Path(os.environ.get("BPF_OOM_RESULTS") or os.environ["BPF_OOM_CACHE"] + "/results")
    target.mkdir(parents=True, exist_ok=True)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.screenshot(path=target / f"report-{scheme}.png", full_page=True)
        assert (target / f"report-{scheme}.png").stat().st_size > 10000
