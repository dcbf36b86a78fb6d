"""Pictures of one episode of a policy, for TensorBoard."""

from typing import Any

import gymnasium as gym
import numpy as np

from grpo_gym.trainers.grpo import GRPO

_PICTURES = 4


def episode_frames(model: GRPO, seed: int) -> np.ndarray | None:
    """Evenly spaced pictures of one episode, shape (count, height, width, 3), uint8.

    None if the environment cannot be drawn here: it has no such render mode, a library or a display
    is missing, or it does not return RGB arrays.
    """
    # Pictures are optional: whatever a third-party renderer raises, training continues.
    try:
        if not _draws_pictures(str(model.env_source), model.env_kwargs):
            return None
        env = gym.make(
            str(model.env_source),
            render_mode="rgb_array",
            disable_env_checker=True,
            **model.env_kwargs,
        )
    except Exception:
        return None
    try:
        frames = _play(model, env, seed)
    except Exception:
        return None
    finally:
        env.close()
    if not all(_is_picture(frame) and frame.shape == frames[0].shape for frame in frames):
        return None
    picked = np.linspace(0, len(frames) - 1, min(_PICTURES, len(frames))).round().astype(int)
    return np.stack([frames[index] for index in picked])


def _draws_pictures(env_id: str, kwargs: dict[str, Any]) -> bool:
    """Whether an environment has the render mode: Gymnasium warns when it is asked for another."""
    plain = gym.make(env_id, disable_env_checker=True, **kwargs)
    plain.close()
    return "rgb_array" in (plain.metadata.get("render_modes") or [])


def _play(model: GRPO, env: gym.Env[Any, Any], seed: int) -> list[Any]:
    """Frames of one episode, including its first and its last."""

    def draw() -> Any:
        # Environments that can draw the policy's probabilities have a `heat_map`.
        if hasattr(env.unwrapped, "heat_map") and model.config.frame_history == 1:
            mask = info.get("action_mask")
            over = mask is not None and not np.any(mask)
            env.unwrapped.heat_map = None if over else model.probabilities(observation, mask)
        return env.render()

    observation, info = env.reset(seed=seed)
    frames = [draw()]
    step, done = 0, False
    state: Any = None
    while not done:
        mask = info.get("action_mask")
        action, state = model.predict(observation, state, deterministic=True, action_masks=mask)
        observation, _, terminated, truncated, info = env.step(action)
        done = terminated or truncated
        step += 1
        # The length is not known in advance: draw more rarely the longer the episode lasts.
        if done or step % (1 << max(step.bit_length() - 4, 0)) == 0:
            frames.append(draw())
    return frames


def _is_picture(frame: Any) -> bool:
    is_array = isinstance(frame, np.ndarray)
    return is_array and frame.ndim == 3 and frame.shape[2] == 3 and frame.dtype == np.uint8
