"""Odd command lines: one line on standard error, the status of a mistake, and never a traceback."""

from pathlib import Path
from typing import Any

import pytest

from grpo_gym import GRPO
from grpo_gym.cli.main import main
from grpo_gym.storage.results import Results
from grpo_gym.trainers.online import OnlineGRPO

SMALL = "--num-groups 2 --group-size 4 --total-steps 100 --evaluations 0 --final-episodes 0"
CARTPOLE = f"train --env CartPole-v1 {SMALL}"
PENDULUM = f"train --env Pendulum-v1 {SMALL}"
BALANCER = "evaluate --env LoadBalancer-v0 --policy random --episodes 2"
SCALER = "evaluate --env AutoScaler-v0 --policy hpa --episodes 2"
SHIPS = "evaluate --env Battleship-v0 --policy random --episodes 2"
STRANGE = "evaluate --env CartPole-v1 --policy random --episodes 2"
HUGE = "1e30"

REFUSED = f"""
trian
train extra
train --no-such-option 3
train --seed
train --seed 1 2
train --seed 1 --seed 2
train --quiet yes
train --env
train --env ''
train --env :
train --env ::
train --env x:y:z
train --env NoSuch-v0
train --env no_module:Env-v0
train --env CartPole-v1 --env-kwargs =3
train --env CartPole-v1 --env-kwargs a
train --env CartPole-v1 --env-kwargs a=1 a=2
train --env CartPole-v1 --env-kwargs no_such=1
train --env LoadBalancer-v0 --env-kwargs num_server=4
train --env LoadBalancer-v0 --env-kwargs preset=prak
train --env LoadBalancer-v0 --env-kwargs preset=[1]
train --env LoadBalancer-v0 --env-kwargs num_servers=1e300
train --env LoadBalancer-v0 --env-kwargs num_servers=-1
train --env LoadBalancer-v0 --env-kwargs episode_length={HUGE}
train --env AutoScaler-v0 --env-kwargs episode_steps={HUGE}
train --env Battleship-v0 --env-kwargs board_size={HUGE}
train --env Battleship-v0 --env-kwargs fleet=[]
train --algo onlin
train --algo online --learning-rate 0.1
train --algo online --env CartPole-v1
train --algo online --online-kwargs no_such=1
train --algo online --online-kwargs seed=1
train --online-kwargs group_size=3
train --preset gpro
train --preset chapter --policy mlp --lstm-width 7
train --policy mpl
train --policy no_module:net
train --policy gru
train --policy linear --hidden-sizes 8
train --policy-kwargs no_such=1
train --policy linear --policy-kwargs hidden_sizes=[8]
train --config missing.yaml
train --config .
train --config /proc/self/mem
train --config broken.yaml
train --run-dir /proc/x
train --run-dir broken.yaml
train --resume missing
train --resume .
train --resume broken.yaml
train --resume . --seed 3
train --branch-every 3
train --grouping shared --branch-from best
train --kl-estimator k3
train --kl-reference collection
train --update trust_region --learning-rate 1e-3
train --max-kl 0.1
train --loss-constant 3
train --evaluations 0 --evaluation-episodes 9
train --total-steps 0
train --total-steps -5
train --total-steps 1e300
train --total-steps inf
train --total-steps nan
train --total-steps 1.5
train --total-steps 1_0_
train --seed -1
train --seed {HUGE}
train --learning-rate 0
train --learning-rate 3e38
train --learning-rate 1e999
train --learning-rate -1
train --learning-rate 1,5
train --discount 0
train --discount 1.0001
train --clip-high 1e300
train --entropy-coefficient 1e300
train --kl-coefficient 1e300
train --weight-decay 1e300
train --anchor-weight 1e300
train --group-size 1
train --group-size {HUGE}
train --num-groups {HUGE}
train --num-minibatches {HUGE}
train --torch-threads 100000
train --torch-threads 0
train --hidden-sizes 0
train --hidden-sizes {HUGE}
train --hidden-sizes 1000000 1000000
train --log-std-bounds 1
train --log-std-bounds 1 0
train --log-std-bounds -1e300 1e300
train --evaluation-episodes 1e12
train --final-episodes 1e12
evaluate
evaluate --policy
evaluate --policy ''
evaluate --policy no_such
evaluate --policy .
evaluate --policy broken.yaml
evaluate --policy /dev/null
evaluate --policy pretrained:
evaluate --policy pretrained:no_such
evaluate --policy random
{STRANGE} --exact
{STRANGE} --stochastic
{STRANGE} --plot x.png
{STRANGE} --plot x.exe
{STRANGE} --plot-beside hpa
{STRANGE} --json /proc/x
{STRANGE} --json .
{STRANGE} --json broken.yaml/x
{STRANGE} --warmup 1e9
{STRANGE} --seed -1
{STRANGE} --seed {HUGE}
{STRANGE} --seed 9223372036854775807
{STRANGE} --env-kwargs num_envs=5
{STRANGE} --env-kwargs id=5
{STRANGE} --env-kwargs self=5
{STRANGE} --env-kwargs disable_env_checker=true
evaluate --env CartPole-v1 --policy random --episodes 1e12
evaluate --env CartPole-v1 --policy random --episodes 0
evaluate --env CartPole-v1 --policy round_robin
{BALANCER} --warmup 1e9
{BALANCER} --env-kwargs num_envs=5
{BALANCER} --env-kwargs self=5
{BALANCER} --env-kwargs vectorization_mode=sync
{BALANCER} --env-kwargs autoreset_mode=x
{BALANCER} --env-kwargs render_mode=bogus
{BALANCER} --env-kwargs num_servers=1e9
{SCALER} --env-kwargs num_envs=5
{SCALER} --env-kwargs burst_size=[0,1e300]
{SCALER} --env-kwargs burst_size=[2,1]
{SCALER} --env-kwargs burst_decay_minutes=[1,1e9]
{SCALER} --env-kwargs demand_csv=missing.csv
{SCALER} --env-kwargs demand_csv=/dev/null
{SCALER} --env-kwargs demand_column=x
{SCALER} --env-kwargs history={HUGE}
{SHIPS} --env-kwargs fleet=[99]
{SHIPS} --env-kwargs board_size=[1,2,3]
{SHIPS} --exact
play --env CartPole-v1
play --policy no_such
play --record x.txt
play --record /proc/x.gif
play --env-kwargs preset=no_such
play --seed -1
compare --env NoSuch-v0
compare --algorithms gpro
compare --algorithms ''
compare --algorithms grpo,grpo
compare --settings grpo=missing.yaml
compare --settings sac=x.yaml
compare --no-train
compare --no-train --out missing.json
compare --no-train --out broken.yaml
compare --no-train --out broken.yaml --seeds 3
compare --no-train --out broken.yaml --total-steps 3
compare --out a.json b.json
compare --out /proc/x.json
compare --report /proc/x
compare --report broken.yaml
compare --seeds 0
compare --seeds 1e6
compare --processes 1e6
compare --total-steps 1e300
compare --final-episodes 1e12
tune --algorithm sac
tune --env NoSuch-v0
tune --settings missing.yaml
tune --study /proc/x.db
tune --study broken.yaml
tune --out /proc/x.yaml
tune --trials 0
tune --trials 1e9
tune --seeds-per-trial 1e9
benchmark --num-envs 0
benchmark --num-envs 1e30
benchmark --repetitions 0
benchmark --json /proc/x
benchmark --json .
""".strip().splitlines()


@pytest.fixture(autouse=True)
def _no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def begun(*_: Any, **__: Any) -> None:
        raise AssertionError("work was begun")

    for owner, name in (
        (GRPO, "train_iteration"),
        (OnlineGRPO, "train_steps"),
        (Results, "measure_all"),
    ):
        monkeypatch.setattr(owner, name, begun)


@pytest.mark.parametrize("line", REFUSED)
def test_a_mistake_is_one_line(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken.yaml").write_text("a: [1\n")
    words = [word.replace("''", "") for word in line.split()]
    status = main(words)
    out, err = capsys.readouterr()
    *before, last = err.splitlines()
    assert last.startswith("error: "), err
    assert not any("error" in line for line in before), err
    assert "Traceback" not in err and "TRACEBACK" not in err, err
    assert status in (1, 2), (status, err)
    assert out == ""
    assert not list(Path().glob("runs/*/*/checkpoints")), "no work was begun"
