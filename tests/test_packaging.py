"""What is installed is what is in the checkout, under the names that users import."""

import importlib.metadata
import re
import runpy
import subprocess
import sys
from configparser import ConfigParser
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import pytest

import grpo_gym

ROOT = Path(__file__).resolve().parent.parent
README_COMMANDS = {
    "train": "pip install -c constraints.txt -e . && python scripts/train.py --env LoadBalancer-v0",
    "test": 'pip install -c constraints.txt -e ".[dev]" && python -m pytest',
}


@pytest.fixture(scope="module")
def setup_cfg() -> ConfigParser:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    return setup


def lines(value: str) -> list[str]:
    return [line.strip() for line in value.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def folders(setup_cfg: ConfigParser) -> dict[str, Path]:
    """Import name -> folder, such as grpo_gym.envs -> envs."""
    pairs = (line.split("=") for line in lines(setup_cfg["options"]["package_dir"]))
    return {name.strip(): ROOT / folder.strip() for name, folder in pairs}


def run_elsewhere(code: str, folder: Path) -> str:
    """Run code away from the checkout, with neither PYTHONPATH nor the user's site-packages."""
    command = [sys.executable, "-I", "-c", code]
    completed = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout.strip()


def test_every_package_folder_is_listed(setup_cfg: ConfigParser, folders: dict[str, Path]) -> None:
    on_disk = {
        ".".join((name, *init.parent.relative_to(folder).parts))
        for name, folder in folders.items()
        for init in folder.rglob("__init__.py")
    }
    assert sorted(lines(setup_cfg["options"]["packages"])) == sorted(on_disk)


def test_no_module_lies_outside_a_package(folders: dict[str, Path]) -> None:
    """A folder without `__init__.py` would import in the checkout and be absent from the wheel."""
    modules = [path for folder in folders.values() for path in folder.rglob("*.py")]
    assert [path for path in modules if not (path.parent / "__init__.py").exists()] == []


def test_configs_are_package_resources() -> None:
    def texts(folder: Traversable, prefix: str = "") -> dict[str, str]:
        """Content by path, of all files below."""
        found: dict[str, str] = {}
        for entry in folder.iterdir():
            if entry.is_dir():
                found |= texts(entry, f"{prefix}{entry.name}/")
            elif entry.name.endswith(".yaml"):
                found[prefix + entry.name] = entry.read_text(encoding="utf-8")
        return found

    root = ROOT / "configs"
    in_checkout = {
        path.relative_to(root).as_posix(): path.read_text(encoding="utf-8")
        for path in root.rglob("*.yaml")
    }
    assert in_checkout, "no configs in the checkout"
    assert texts(files("grpo_gym.configs")) == in_checkout


def test_every_config_is_listed_for_the_wheel(setup_cfg: ConfigParser) -> None:
    patterns = setup_cfg["options.package_data"]["grpo_gym.configs"].split(", ")
    listed = {path for pattern in patterns for path in (ROOT / "configs").glob(pattern)}
    assert listed == set((ROOT / "configs").rglob("*.yaml"))


def test_the_package_is_typed() -> None:
    assert files("grpo_gym").joinpath("py.typed").is_file()


def test_one_version(setup_cfg: ConfigParser) -> None:
    assert grpo_gym.__version__ == setup_cfg["metadata"]["version"]
    assert grpo_gym.__version__ == importlib.metadata.version("grpo-gym")


def test_the_console_script_points_at_a_function() -> None:
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="grpo-gym")
    assert callable(script.load())


def test_top_level_names_do_not_leak(tmp_path: Path) -> None:
    code = """
import importlib.util, sys
import gymnasium as gym
import grpo_gym, grpo_gym.envs, grpo_gym.trainers, grpo_gym.configs
gym.make("LoadBalancer-v0")
names = "envs", "trainers", "configs"
print([name for name in names if name in sys.modules or importlib.util.find_spec(name)])
"""
    assert run_elsewhere(code, tmp_path) == "[]"


def test_a_users_own_envs_folder_coexists(tmp_path: Path) -> None:
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").write_text("OWNER = 'user'\n")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import grpo_gym.envs, envs
print(envs.OWNER, grpo_gym.envs.__name__)
"""
    assert run_elsewhere(code, tmp_path) == "user grpo_gym.envs"


def mapped_modules() -> set[str]:
    """The modules of CONTRIBUTING's map, such as envs/autoscaler/trace.py."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    root = folder = ""
    modules = set()
    for line in (
        text.partition("## The map")[2].partition("```\n")[2].partition("```")[0].splitlines()
    ):
        if heading := re.match(r"([\w/]+)/ ", line):
            root = folder = heading[1]
        elif heading := re.match(r"  (\S+)/ ", line):
            folder = f"{root}/{heading[1]}"
        elif re.match(r"  \S", line):
            folder = root
        modules |= {f"{folder}/{name}" for name in re.findall(r"\w+\.py\b", line)}
    every = {name for name in modules if "<environment>" in name}
    environments = ("load_balancer", "battleship", "autoscaler")
    shared = {name.replace("<environment>", each) for name in every for each in environments}
    return (modules - every) | shared


def test_the_map_names_every_module() -> None:
    on_disk = {
        str(path.relative_to(ROOT))
        for place in ("grpo_gym", "trainers", "envs")
        for path in (ROOT / place).rglob("*.py")
        if path.name != "__init__.py"
    }
    mapped = {name for name in mapped_modules() if name.split("/")[0] not in ("scripts", "tests")}
    assert mapped == on_disk


def test_importing_the_package_is_light(tmp_path: Path) -> None:
    code = "import sys, grpo_gym; print('torch' in sys.modules, 'gymnasium' in sys.modules)"
    assert run_elsewhere(code, tmp_path) == "False True"


def test_the_options_of_train_are_read_without_torch_and_numba(tmp_path: Path) -> None:
    code = "import sys, grpo_gym.cli.train; print({'torch', 'numba'} & set(sys.modules))"
    assert run_elsewhere(code, tmp_path) == "set()"


def test_link_tree_shows_the_installed_layout(tmp_path: Path) -> None:
    for folder in ("grpo_gym", "envs"):
        (tmp_path / folder).mkdir()
    for name in ("grpo_gym/kept.py", "grpo_gym/removed.py", "envs/env.py"):
        (tmp_path / name).touch()
    mapping = "package_dir =\n    grpo_gym = grpo_gym\n    grpo_gym.envs = envs\n"
    (tmp_path / "setup.cfg").write_text(f"[options]\n{mapping}")
    link_tree = runpy.run_path(str(ROOT / "scripts" / "link_types.py"))["link_tree"]

    tree = link_tree(tmp_path)
    assert {path.name for path in tree.iterdir()} == {"kept.py", "removed.py", "envs"}
    assert (tree / "envs" / "env.py").exists()

    (tmp_path / "grpo_gym" / "removed.py").unlink()
    for _ in range(2):
        link_tree(tmp_path)
        assert {path.name for path in tree.iterdir()} == {"kept.py", "envs"}


@pytest.mark.parametrize("name", README_COMMANDS)
def test_readme_command(name: str) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(rf"^<!-- command: {name} -->\n```bash\n(.*?)\n```$", readme, re.M | re.S)
    assert blocks == [README_COMMANDS[name]]


def test_readme_commands_name_what_exists(setup_cfg: ConfigParser) -> None:
    assert (ROOT / "constraints.txt").is_file()
    assert (ROOT / "scripts" / "train.py").is_file()
    assert "dev" in setup_cfg["options.extras_require"]


def test_this_process_did_not_import_top_level_folders() -> None:
    """Two copies of one module would register every environment twice."""
    assert {"envs", "trainers"}.isdisjoint(sys.modules)
