"""Build the tree of links that type checkers read: build/types/grpo_gym.

The package's import names differ from its folders (`envs/` is `grpo_gym.envs`), which an editable
install resolves at run time in a way that type checkers do not follow. The tree shows them the
package as a wheel would hold it. Safe to run again at any time: stale links are removed.
"""

from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def wanted_links(root: Path) -> dict[str, Path]:
    """Name every entry of the installed package, with the file or folder it comes from.

    Args:
        root: The checkout; its setup.cfg says which folders are mapped into the package.

    Returns:
        Entry name inside the package -> its source.
    """
    setup = ConfigParser()
    setup.read(root / "setup.cfg", encoding="utf-8")
    mapping = dict(
        line.replace(" ", "").split("=")
        for line in setup["options"]["package_dir"].splitlines()
        if line.strip()
    )
    package = root / mapping.pop("grpo_gym")
    links = {path.name: path for path in package.iterdir() if path.name != "__pycache__"}
    links |= {name.removeprefix("grpo_gym."): root / folder for name, folder in mapping.items()}
    return links


def link_tree(root: Path) -> Path:
    """Bring build/types/grpo_gym into line with the checkout.

    Args:
        root: The checkout.

    Returns:
        The tree's folder.
    """
    tree = root / "build" / "types" / "grpo_gym"
    tree.mkdir(parents=True, exist_ok=True)
    wanted = wanted_links(root)
    for link in tree.iterdir():
        if wanted.get(link.name) != link.resolve():
            link.unlink()
    for name, source in wanted.items():
        if not (tree / name).is_symlink():
            (tree / name).symlink_to(source, target_is_directory=source.is_dir())
    return tree


if __name__ == "__main__":
    print(link_tree(ROOT))
