"""The documentation site: what it makes from code is complete, and its pages hold together."""

import dataclasses
import re
import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from grpo_gym.cli.main import COMMANDS
from grpo_gym.cli.options import as_option
from grpo_gym.trainers.comparison.task_results import read_task
from grpo_gym.trainers.named_policies import privileged_names

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text("utf-8")


@pytest.fixture(scope="module")
def site() -> Any:
    """The functions of the site's hook."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        return type("Site", (), runpy.run_path(str(ROOT / "scripts" / "site_pages.py")))
    finally:
        sys.path.remove(str(ROOT / "scripts"))


def test_every_class_of_settings_has_its_tables(site: Any) -> None:
    documented = {name.rpartition(".")[2] for name in site.documented_settings()}
    assert documented >= {
        *("TrainSettings", "GRPOConfig", "OnlineConfig", "SB3Settings"),
        *("LoadBalancerConfig", "BattleshipConfig", "AutoScalerConfig"),
        *("GuardConfig", "QuickAlarmConfig", "RoutingConfig", "ProxyConfig", "RouteSettings"),
        *("ScalerSettings", "PickerConfig", "EnvoyConfig"),
    }


def test_every_setting_has_a_row_with_its_meaning(site: Any) -> None:
    for path in site.documented_settings():
        module, _, name = path.rpartition(".")
        config = getattr(import_module(module), name)
        table = site.settings_tables(config)
        rows = dict(re.findall(r"^\| `(\w+)` \|.* \| (.*) \|$", table, re.MULTILINE))
        nested = {each.name for each in dataclasses.fields(config)} - rows.keys()
        assert nested <= {"grpo", "online", "guard", "proxy", "routing"}, (path, nested)
        assert all(rows.values()), [name for name, meaning in rows.items() if not meaning]


def test_rules_and_defaults_are_those_of_the_code(site: Any) -> None:
    from grpo_gym.trainers.config import GRPOConfig

    table = site.settings_tables(GRPOConfig)
    for row in (
        "| `group_size` | integer ≥ 2, ≤ 1,000,000 | `16` | Members per group, K. |",
        "| `clip_low` | number > 0, ≤ 1 | `0.2` |",
        '| `update` | `"adamw"`, `"trust_region"` |',
        "| `target_kl` | number > 0 or none | none |",
    ):
        assert row in table, row


def test_every_command_has_a_section_with_every_option(site: Any) -> None:
    text = site.commands()
    settings = {name.rpartition(".")[2] for name in site.documented_settings()}
    for name in COMMANDS:
        for line in site.command_lines(name):
            section = re.split(rf"^## {line.command}$", text, flags=re.MULTILINE)[1]
            section = section.partition("\n## ")[0]
            for config in line.groups.values():
                if config.__name__ in settings:
                    assert f"[{config.__name__}](settings/" in section
                    continue
                for each in dataclasses.fields(config):
                    assert f"`{as_option(each.name)}`" in section, (line.command, each.name)


def test_every_recipe_is_shown(site: Any) -> None:
    text = site.recipes()
    files = list((ROOT / "configs").rglob("*.yaml"))
    assert len(files) > 20
    assert all(path.read_text("utf-8").strip() in text for path in files)


def test_pages_of_the_root_keep_their_links(site: Any) -> None:
    text = "[a](docs/how_to/keda.md#x) [b](SECURITY.md) [c](trainers/grpo.py) [d](https://x.y/z)"
    assert site.from_the_root(text) == (
        "[a](how_to/keda.md#x) [b](security.md) `trainers/grpo.py` [d](https://x.y/z)"
    )


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))], ids=lambda p: p.stem
)
def test_links_lead_to_files(page: Path) -> None:
    made = {"security.md", "changelog.md", "contributing.md", "index.md"}
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8")):
        if "://" not in target:
            path = page.parent / target
            assert path.exists() or path.resolve().relative_to(DOCS).as_posix() in made, target


def test_every_result_is_listed() -> None:
    page = (DOCS / "results" / "index.md").read_text("utf-8")
    listed = set(re.findall(r"\]\((\w[^)/]*\.json)\)", page))
    assert listed == {path.name for path in (DOCS / "results").glob("*.json")}


def test_the_readme_is_short_and_its_picture_small() -> None:
    assert len(README.splitlines()) <= 150
    assert (DOCS / "images" / "fault.gif").stat().st_size < 1_000_000


def test_the_table_of_the_readme_is_that_of_the_results() -> None:
    files = {
        "LoadBalancer-v0 `flaky`": "flaky",
        "LoadBalancer-v0 `heavy-tails`": "heavy-tails",
        "AutoScaler-v0 `flash-crowd`": "flash-crowd",
        "LunarLander-v3": "lunarlander",
        "CartPole-v1": "cartpole",
        "Acrobot-v1": "acrobot",
    }
    rows = [line.strip("| ").split(" | ") for line in README.splitlines() if line[:2] == "| "][1:]
    assert {row[0] for row in rows} == set(files)
    for name, _, *cells in rows:
        results = read_task(DOCS / "results" / f"comparison_{files[name]}.json")
        for algorithm, cell in zip(("grpo", "ppo"), cells, strict=False):
            estimate = results.final_iqms[algorithm]
            numbers = [float(x) for x in re.findall(r"-?[\d.]+", cell.replace(",", ""))]
            digits = max(len(x.partition(".")[2]) for x in re.findall(r"[\d.]+", cell))
            found = [round(x, digits) for x in (estimate.value, estimate.low, estimate.high)]
            assert numbers == found, (name, algorithm)
        if len(cells) > 2 and cells[2]:
            hidden = privileged_names(results.task.env) | {"random"}
            best = max(
                value.mean_return
                for baseline, value in results.baselines.items()
                if baseline not in hidden
            )
            assert abs(float(cells[2].replace(",", "")) - best) < 0.5, name


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_is_searched_without_a_server(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    pytest.importorskip("aiohttp")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    command += ["--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    from browser import open_tab

    with open_tab() as tab:
        tab.show((tmp_path / "site" / "index.html").as_uri())
        tab.evaluate("document.querySelector('[data-md-toggle=search]').click()")
        tab.evaluate("document.querySelector('.md-search__input').focus()")
        tab.call("Input.insertText", text="group_size")
        tab.wait_for("document.querySelector('.md-search-result__item') !== null")
        assert not tab.complaints
