"""The moving picture of README.md: a heuristic and a policy meet the same fault.

The fastest of four servers becomes nine times slower from request 150 to 250. Both halves show
the same seed, so the same requests in the same order.

    python scripts/fault_film.py --out docs/images/fault.gif
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import tyro
from PIL import Image, ImageColor, ImageDraw, ImageFont

from grpo_gym import pretrained
from grpo_gym.envs.load_balancer.baselines import make_baseline
from grpo_gym.envs.load_balancer.rendering import (
    ACCENT,
    GREY,
    HEALTH,
    INK,
    LINE,
    RED,
    SLATE,
    TINT,
    TRACK,
)

ENV = "LoadBalancer-v0"
WORLD: dict[str, Any] = {
    "preset": "flaky",
    "mean_time_to_failure_ms": None,
    "fault_schedule": ((3, "slow", 150, 250),),
    "episode_length": 320,
}
FIRST, EVERY = 142, 4
"""First request that is shown, and requests from one picture to the next."""
HEADING = 28
"""Height of the line above each half, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line."""

    out: Path = Path("docs/images/fault.gif")
    """The file, a GIF."""
    heuristic: str = "least_connections"
    """The baseline on the left."""
    seed: int = 2_000_000
    """Seed of the episode."""
    width: int = 1080
    """Width of the film, in pixels."""


def frames(name: str, heading: str, seed: int) -> Iterator[Image.Image]:
    """Pictures of one episode, with a heading; the policy is a baseline, or the router."""
    env = gym.make(ENV, render_mode="rgb_array", **WORLD)
    policy: Any = pretrained("router", WORLD) if name == "router" else make_baseline(name, env)
    observation, _ = env.reset(seed=seed)
    for request in range(WORLD["episode_length"]):
        action, _ = policy.predict(observation, deterministic=True)
        observation, *_ = env.step(action)
        if request >= FIRST and (request - FIRST) % EVERY == 0:
            picture: Any = env.render()
            yield _headed(Image.fromarray(np.asarray(picture)), heading)
    env.close()


def main(options: Options) -> None:
    """Play both, and write the film."""
    left = frames(options.heuristic, f"Heuristic: {options.heuristic}", options.seed)
    right = frames("router", "Policy: pretrained router", options.seed)
    pictures = [_beside(*pair, options.width) for pair in zip(left, right, strict=True)]
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for colour in _colours() for part in colour])
    images = [each.quantize(palette=palette, dither=Image.Dither.NONE) for each in pictures]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    durations = [180] * (len(images) - 1) + [3_000]
    images[0].save(options.out, save_all=True, append_images=images[1:], duration=durations, loop=0)
    moving = sum(a.tobytes() != b.tobytes() for a, b in pairwise(images))
    print(f"{options.out}: {moving + 1} pictures, {options.out.stat().st_size / 1e3:,.0f} kB")


def _colours() -> Iterator[tuple[int, ...]]:
    """Those of the environment's pictures and steps from them to white; few make a small file."""
    yield (255, 255, 255)
    for name, shades in ((INK, 4), (GREY, 2), (SLATE, 3), (ACCENT, 3), (RED, 1)):
        for shade in range(shades):
            yield tuple(round(c + (255 - c) * shade / shades) for c in ImageColor.getrgb(name))
    for name in (TRACK, LINE, TINT, *HEALTH.values()):
        yield ImageColor.getrgb(name)


def _headed(picture: Image.Image, heading: str) -> Image.Image:
    whole = Image.new("RGB", (picture.width, picture.height + HEADING), "#ffffff")
    whole.paste(picture, (0, HEADING))
    font = ImageFont.load_default(size=22)
    ImageDraw.Draw(whole).text((20, 4), heading, fill="#005cb8", font=font)
    return whole


def _beside(left: Image.Image, right: Image.Image, width: int) -> Image.Image:
    both = Image.new("RGB", (left.width + right.width, left.height), "#ffffff")
    both.paste(left, (0, 0))
    both.paste(right, (left.width, 0))
    height = round(both.height * width / both.width)
    return both.resize((width, height), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
