"""A model in training as a checkpoint, and back: everything that training continues from."""

import logging
from collections.abc import Mapping
from os import PathLike
from typing import Any, Self

from grpo_gym.envs.arguments import merge_env_kwargs
from grpo_gym.policies.custom import qualified_name
from grpo_gym.policies.metrics_normaliser import MetricsNormaliser
from grpo_gym.policies.network import Policy
from grpo_gym.policies.registry import PolicySource, find_policy, is_built_in, policy_names
from grpo_gym.rollouts.batches import EnvSource
from grpo_gym.settings import ConfigError, from_mapping, to_mapping
from grpo_gym.storage import checkpoint
from grpo_gym.storage.checkpoint import CheckpointError
from grpo_gym.trainers.config import OF_THE_MACHINE, GRPOConfig
from grpo_gym.trainers.devices import is_available
from grpo_gym.trainers.export import export_policy
from grpo_gym.trainers.export.cards import make_card
from grpo_gym.trainers.learning.adamw import AdamW
from grpo_gym.trainers.learning.value_baseline import ValueBaseline
from grpo_gym.trainers.model import PolicyModel
from grpo_gym.trainers.payloads import (
    GRPOPayload,
    check_payload,
    check_registered,
    load_optimizer,
    load_weights,
    refuse,
)
from grpo_gym.trainers.saved_environment import (
    check_spaces,
    describe_environment,
    is_plain,
    saved_arguments,
)
from grpo_gym.trainers.schedule import Schedule
from grpo_gym.trainers.standstill import Standstill

_log = logging.getLogger(__name__)

_KIND = "grpo"


class PersistentModel(PolicyModel):
    """A model in training that can be saved and loaded.

    Attributes:
        reference: The policy that the KL penalty stays close to, or None.
        value_baseline: The learned baseline, or None.
        optimizer: AdamW on the policy's parameters.
        iteration: Iterations made.
        num_steps: Environment steps taken in training.
        schedule: The environment steps that the call of `learn` spans.
        standstill: The latest iterations in a row that led nowhere.
        notes: Numbers about this policy that are saved with it, such as its evaluated return.
    """

    reference: Policy | None
    value_baseline: ValueBaseline | None
    optimizer: AdamW
    iteration: int
    num_steps: int
    schedule: Schedule
    standstill: Standstill
    notes: dict[str, float]

    def save(self, path: str | PathLike[str]) -> str:
        """Write everything that training continues from to one file, atomically.

        Returns:
            The SHA-256 of the weights.

        Raises:
            CheckpointError: If the file cannot be written.
        """
        source, kwargs = self.policy_source, self.policy_kwargs
        reference, baseline, metrics = self.reference, self.value_baseline, self.metrics_normaliser
        payload = {
            "config": to_mapping(self.config),
            "policy_kind": source if isinstance(source, str) else None,
            "policy_class": None if isinstance(source, str) else qualified_name(source),
            # Kept only if a file can hold them as they are: `load` asks for others.
            "policy_kwargs": kwargs if is_plain(kwargs) else None,
            "environment": _describe(self),
            "model": self.policy.state_dict(),
            "reference": None if reference is None else reference.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "value_baseline": None if baseline is None else baseline.state(),
            "iteration": self.iteration,
            "num_steps": self.num_steps,
            "notes": self.notes,
            "metrics_normaliser": None if metrics is None else metrics.state(),
            "schedule": [self.schedule.start, self.schedule.end],
            "standstill": [self.standstill.unchanged, self.standstill.hopeless],
        }
        checkpoint.save(path, payload, kind=_KIND)
        return self.weights_sha256()

    def export(self, path: str | PathLike[str]) -> None:
        """Write the policy alone, with its normaliser and history, for use without training.

        Args:
            path: Ends with .onnx, for ONNX Runtime and others, with the weights inside; or with
                .safetensors, for `grpo_gym.inference.NumpyPolicy`. docs/how_to/export.md has both.

        Raises:
            ConfigError: If the name ends otherwise, a package is missing (the extra `export`), or
                the network cannot be translated.
            CheckpointError: If the file cannot be written; the old file is then unchanged.
        """
        training = {"iterations": self.iteration, "steps": self.num_steps, "notes": self.notes}
        export_policy(
            path,
            self.policy,
            self.observation_space,
            self.action_space,
            make_card(self, training),
        )

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        env: EnvSource | None = None,
        *,
        env_kwargs: Mapping[str, Any] | None = None,
        training_env_kwargs: Mapping[str, Any] | None = None,
        policy: PolicySource | None = None,
        policy_kwargs: Mapping[str, Any] | None = None,
        **machine: Any,
    ) -> Self:
        """Read a model that `save` wrote; it evaluates and resumes as the original.

        Args:
            path: The file.
            env: Needed only if the model was trained in an environment without an id.
            env_kwargs: Over those it was trained with, of which none stay with another `preset` or
                environment. They must not change the spaces; but the policies `board` and `servers`
                act on any number of cells and servers with the same features.
            training_env_kwargs: Instead of those it was trained with. These and `env_kwargs` are
                needed if a file could not hold them: numbers, text, and lists, tuples and
                dictionaries of them.
            policy: Needed only for a network of your own that is not registered: the callable.
            policy_kwargs: Instead of those it was trained with.
            **machine: Settings of where it is computed, instead of those it was trained with:
                device, workers, worker_timeout_s. A device that is not here is by default the CPU.

        Raises:
            ConfigError: If a setting is another one.
            CheckpointError: If the file is damaged, not ours, or of another environment or policy.
        """
        if others := sorted(machine.keys() - set(OF_THE_MACHINE)):
            raise ConfigError(
                f"{others[0]} must be left out of load: a model goes on with its own settings, but "
                f"for {', '.join(OF_THE_MACHINE)}"
            )
        payload = check_payload(checkpoint.load(path, kind=_KIND), GRPOPayload, path)
        trained_on = payload["config"].get("device", "cpu")  # older files have none
        if "device" not in machine and not is_available(str(trained_on)):
            _log.warning(
                "%s was trained on %s, which is not here: it is on the CPU", path, trained_on
            )
            machine["device"] = "cpu"
        saved = payload["environment"]
        source = env
        if env is None and saved["id"] is not None:
            check_registered(saved["id"], path)
            source = saved["id"]
        if source is None:
            raise CheckpointError(
                f"{path} was trained in an environment without an id: pass it as env="
            )
        if policy_kwargs is None:
            policy_kwargs = payload.get("policy_kwargs", {})  # older files have none
        if policy_kwargs is None:
            raise CheckpointError(
                f"{path} was trained with policy_kwargs that a file cannot hold: pass "
                "policy_kwargs="
            )
        same = isinstance(source, str) and _bare(source) == _bare(saved["id"])
        trained: Mapping[str, Any] = {}
        in_training: Mapping[str, Any] = {}
        if same:
            trained = saved_arguments(saved["kwargs"], env_kwargs, "env_kwargs", path)
            if training_env_kwargs is None:
                in_training = saved_arguments(
                    saved["training_kwargs"], None, "training_env_kwargs", path
                )
        try:
            model = cls(
                _policy_source(payload, policy, path),
                source,
                env_kwargs=merge_env_kwargs(trained, env_kwargs or {}),
                training_env_kwargs=training_env_kwargs,
                policy_kwargs=policy_kwargs,
                config=from_mapping(GRPOConfig, {**payload["config"], **machine}, str(path)),
            )
        except ConfigError as error:
            raise CheckpointError(f"{path} cannot be used here: {error}") from error
        except Exception as error:  # environments may raise anything, the more so with odd kwargs
            if not isinstance(source, str):
                raise
            raise CheckpointError(
                f"{path} cannot be used here: {source} cannot be made: {error!r}"
            ) from error
        if not (model.policy.any_size and _same_shapes(model.policy, payload["model"])):
            check_spaces(saved, _describe(model), path)
        model._restore(payload, path)
        if training_env_kwargs is None:
            # Only needed to train on, as a recording is that others do not have.
            model.training_env_kwargs = dict(in_training)
        return model

    def _restore(self, payload: GRPOPayload, path: str | PathLike[str]) -> None:
        load_weights(self.policy, payload["model"], "model", path)
        reference, baseline = payload["reference"], payload["value_baseline"]
        for name, own, saved in (
            ("reference", self.reference, reference),
            ("value_baseline", self.value_baseline, baseline),
        ):
            if (own is None) != (saved is None):
                wanted = "absent" if own is None else "there"
                refuse(path, f"{name} must be {wanted}, as its config says")
        if self.reference is not None and reference is not None:
            load_weights(self.reference, reference, "reference", path)
        load_optimizer(self.optimizer, payload["optimizer"], "optimizer", path)
        if self.value_baseline is not None and baseline is not None:
            name = "value_baseline"
            load_weights(self.value_baseline, baseline["weights"], name, path)
            load_optimizer(self.value_baseline.optimizer, baseline["optimizer"], name, path)
        self.iteration = payload["iteration"]
        self.num_steps = payload["num_steps"]
        self.notes = payload["notes"]
        metrics = payload.get("metrics_normaliser")  # older files have none
        try:
            self.metrics_normaliser = (
                None if metrics is None else MetricsNormaliser.from_state(metrics)
            )
        except ConfigError as error:
            refuse(path, f"metrics_normaliser: {error}", error)
        self.schedule = Schedule(*payload["schedule"])
        self.standstill = Standstill(*payload.get("standstill", ()))  # older files have none


def _policy_source(
    payload: Mapping[str, Any], policy: PolicySource | None, path: str | PathLike[str]
) -> PolicySource:
    """The policy to build; a file never imports anything."""
    name = payload["policy_kind"]
    chosen = name if policy is None else find_policy(policy)
    if chosen is None:
        raise CheckpointError(
            f"{path} was trained with the policy {payload.get('policy_class')}: pass it as policy="
        )
    if isinstance(chosen, str) and chosen not in policy_names():
        raise CheckpointError(
            f"{path} was trained with the policy {name!r}, which is not registered: import the "
            "module that calls register_policy first (on the command line by --env MODULE:ID), or "
            "pass the network as policy="
        )
    trained = payload.get("policy_class") if name is None else repr(name)
    if isinstance(chosen, str) and chosen != name and (name is not None or is_built_in(chosen)):
        raise CheckpointError(f"{path} was trained with the policy {trained}, not {chosen!r}")
    return chosen


def _bare(env_id: str | None) -> str | None:
    """An id without the module that registers it: "grpo_gym:LoadBalancer-v0" is no other game."""
    return None if env_id is None else env_id.rpartition(":")[2]


def _same_shapes(policy: Policy, saved: Mapping[str, Any]) -> bool:
    shapes = {name: weights.shape for name, weights in policy.state_dict().items()}
    return shapes == {name: getattr(weights, "shape", None) for name, weights in saved.items()}


def _describe(model: PolicyModel) -> dict[str, Any]:
    return describe_environment(
        model.env_source,
        model.env_kwargs,
        model.training_env_kwargs,
        model.observation_space,
        model.action_space,
    )
