"""Lay out the package as it is installed, for tools that do not see through `package_dir`.

mypy, pyright and import-linter read build/types/grpo_gym/: folders of links to the files of the
checkout, with envs/, trainers/ and configs/ in their places. Run it again after adding or removing
a file.
"""

from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def wanted_links(root: Path) -> dict[Path, Path]:
    """Name every file of the installed package.

    Args:
        root: The checkout; its setup.cfg says which folders are mapped into the package.

    Returns:
        Path inside the package -> the file in the checkout.
    """
    setup = ConfigParser()
    setup.read(root / "setup.cfg", encoding="utf-8")
    links = {}
    for line in setup["options"]["package_dir"].split("\n"):
        name, _, folder = (part.strip() for part in line.partition("="))
        inside = Path(*name.split(".")[1:])
        for pattern in ("*.py", "py.typed") if name else ():
            for path in (root / folder).rglob(pattern):
                links[inside / path.relative_to(root / folder)] = path
    return links


def link_tree(root: Path) -> Path:
    """Make build/types/grpo_gym match the checkout.

    Args:
        root: The checkout.

    Returns:
        The tree's folder.
    """
    tree = root / "build" / "types" / "grpo_gym"
    wanted = {tree / name: source for name, source in wanted_links(root).items()}
    for path in [path for path in tree.rglob("*") if path.is_symlink()]:
        if wanted.get(path) != path.resolve():
            path.unlink()
    for path, source in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_symlink():
            path.symlink_to(source)
    return tree


if __name__ == "__main__":
    print(link_tree(ROOT))
