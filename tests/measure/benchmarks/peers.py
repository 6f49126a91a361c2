"""Other people's PPO on the reference workload, one process per agent: what trainer_speed.py times beside ours.

  python tests/measure/benchmarks/peers.py SPEC SYMBOL dummy Stable-Baselines3, all envs in this process, as one of ours
  python tests/measure/benchmarks/peers.py SPEC SYMBOL scalar Stable-Baselines3, its own DummyVecEnv of gymnasium envs
  python tests/measure/benchmarks/peers.py SPEC SYMBOL subproc Stable-Baselines3, a process per env
  python tests/measure/benchmarks/peers.py SPEC SYMBOL masked sb3-contrib's MaskablePPO, all envs in this process
  python tests/measure/benchmarks/peers.py SPEC SYMBOL shared Stable-Baselines3 with ppo_shared's encoder as extractor
  python tests/measure/benchmarks/peers.py SPEC SYMBOL torchrl the update of TorchTrade's PPO, environment free

Prints one line of JSON: env steps trained, gradient steps taken, seconds of training (start-up left out), and seconds
of that in the update.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

import torch
from torch import Tensor, nn

from p3kit.market import load_market
from p3kit.runtime.machine import keep_freed_memory, spare_lasting_objects
from p3kit.spec import Spec, load_spec

ROOT = Path(__file__).parents[3]
Timing = dict[str, float]


# ── Stable-Baselines3 ─────────────────────────────────────────────────────────────────────────────────────────────────


def train_sb3(spec_file: Path, symbol: str, kind: str) -> Timing:
    """`learn` with the spec's knobs; `kind` is dummy, scalar, subproc, masked or shared."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

    from tests.measure.learning.sb3 import knobs_of

    spec = load_spec(spec_file).spec
    knobs = spec.ppo
    algorithm: Any = PPO
    options: dict[str, Any] = {"target_kl": None if knobs.target_kl == "off" else knobs.target_kl}
    if kind in ("subproc", "scalar"):
        vector: Any = SubprocVecEnv if kind == "subproc" else DummyVecEnv
        env: Any = vector([functools.partial(scalar_env, str(spec_file), symbol)] * spec.env.num_envs)
    else:
        env = batched_env(spec, symbol)
    if kind == "masked":
        from sb3_contrib import MaskablePPO

        algorithm = MaskablePPO
    if kind == "shared":
        network = shared_encoder(spec, symbol)
    else:
        network = {
            "net_arch": list(knobs.hidden),
            "activation_fn": {"tanh": nn.Tanh, "relu": nn.ReLU}[knobs.activation],
        }
    model = algorithm(
        "MlpPolicy",
        VecNormalize(env, norm_obs=False, clip_reward=spec.reward.clip, gamma=knobs.gamma),
        **knobs_of(spec),
        policy_kwargs=network,
        seed=spec.seeds[0],
        device="cpu",
        **options,
    )
    spare_lasting_objects()
    updating, stepping = watch(model, "train"), watch(model.policy.optimizer, "step")
    begin = time.perf_counter()
    model.learn(knobs.total_timesteps)
    train_s = time.perf_counter() - begin
    env.close()
    return {
        "steps": model.num_timesteps,
        "gradient_steps": stepping["calls"],
        "train_s": train_s,
        "update_s": updating["seconds"],
    }


def watch(thing: Any, name: str) -> dict[str, float]:
    """Count and time the calls of a method from now on."""
    seen = {"calls": 0.0, "seconds": 0.0}
    method = getattr(thing, name)

    @functools.wraps(method)
    def timed(*arguments: Any, **named: Any) -> Any:
        begin = time.perf_counter()
        result = method(*arguments, **named)
        seen["calls"] += 1
        seen["seconds"] += time.perf_counter() - begin
        return result

    setattr(thing, name, timed)
    return seen


def scalar_env(spec_file: str, symbol: str) -> Any:
    """One account behind gymnasium."""
    import gymnasium

    import p3kit.env  # noqa: F401  registers it

    torch.set_num_threads(1)
    return gymnasium.make("p3kit/Trading-v1", spec=spec_file, symbol=symbol)


def batched_env(spec: Spec, symbol: str) -> Any:
    """All accounts as one of our environments behind Stable-Baselines3's interface. It makes more steps a second than
    DummyVecEnv does with any environment in Python. Masks are available on request."""
    from tests.measure.learning.sb3 import TradingVecEnv

    class MaskedVecEnv(TradingVecEnv):
        def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
            if method_name != "action_masks":
                raise AttributeError(method_name)
            return list(self.mask)

    return MaskedVecEnv(spec, load_market(spec, [symbol])[symbol], symbol, spec.seeds[0])


def shared_encoder(spec: Spec, symbol: str) -> dict[str, Any]:
    """Policy arguments that put the very encoder of trainers/ppo_shared.py before heads of the same width."""
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

    trainer = trainer_module("ppo_shared")
    args = trainer.Args(**{**spec.ppo.model_dump(), "target_kl": "off"})
    env = batched_env(spec, symbol).env
    values = (env.observation_size - env.account_size) // spec.env.window
    shape = trainer.Shape(spec.env.window, values, env.account_size)

    class Encoder(BaseFeaturesExtractor):
        def __init__(self, observation_space: Any) -> None:
            super().__init__(observation_space, args.d_model + shape.account)
            weights = trainer.make_encoder(shape, args, torch.Generator().manual_seed(spec.seeds[0]))
            self.names = list(weights)
            self.weights = nn.ParameterList(weights.values())

        def forward(self, observation: Tensor) -> Tensor:
            own = trainer.for_each(dict(zip(self.names, self.weights, strict=True)), 1)
            token = trainer.encode(own, observation.unsqueeze(0), shape, args).squeeze(0)
            return torch.cat((token, observation[:, -shape.account :]), -1)

    return {"features_extractor_class": Encoder, "net_arch": [args.head_width], "ortho_init": False}


def trainer_module(name: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(name, ROOT / "trainers" / f"{name}.py")
    if found is None or found.loader is None:
        raise FileNotFoundError(name)
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    found.loader.exec_module(module)
    return module


# ── TorchTrade: TorchRL's modules, put together as its examples do ────────────────────────────────────────────────────


def update_torchrl(spec_file: Path, symbol: str, kind: str) -> Timing:
    """GAE and all epochs over made rollouts, by the modules of TorchTrade's `examples/online_rl/ppo`.

    No environment is stepped and no rollout collected, so what is timed is less than its training: the rate that comes
    out is one that it cannot exceed.
    """
    import torchtrade  # noqa: F401  it pins the TorchRL that belongs to it
    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule
    from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    from torchrl.data.replay_buffers.samplers import SamplerWithoutReplacement
    from torchrl.modules import MLP, ProbabilisticActor, ValueOperator
    from torchrl.objectives import ClipPPOLoss
    from torchrl.objectives.value.advantages import GAE

    spec = load_spec(spec_file).spec
    knobs, num_envs = spec.ppo, spec.env.num_envs
    env = batched_env(spec, symbol).env
    size, actions, rows = env.observation_size, env.num_actions, knobs.n_steps * num_envs
    net = functools.partial(MLP, in_features=size, num_cells=list(knobs.hidden), activation_class=nn.Tanh)
    actor = ProbabilisticActor(
        TensorDictModule(net(out_features=actions), in_keys=["observation"], out_keys=["logits"]),
        in_keys=["logits"],
        distribution_class=torch.distributions.Categorical,
        return_log_prob=True,
    )
    critic = ValueOperator(net(out_features=1), in_keys=["observation"])
    advantage = GAE(gamma=knobs.gamma, lmbda=knobs.gae_lambda, value_network=critic, average_gae=False)
    loss = ClipPPOLoss(
        actor_network=actor,
        critic_network=critic,
        clip_epsilon=knobs.clip_range,
        entropy_coeff=knobs.ent_coef,
        critic_coeff=knobs.vf_coef,
        loss_critic_type="l2",
        normalize_advantage=True,
    )
    optimizer = torch.optim.Adam(loss.parameters(), lr=knobs.learning_rate, eps=1e-5)
    buffer = TensorDictReplayBuffer(
        storage=LazyTensorStorage(rows), sampler=SamplerWithoutReplacement(drop_last=True), batch_size=knobs.batch_size
    )

    def made_rollout() -> TensorDict:
        seen = torch.randn(num_envs, knobs.n_steps + 1, size)
        ended = torch.zeros(num_envs, knobs.n_steps, 1, dtype=torch.bool)
        after = {
            "observation": seen[:, 1:],
            "reward": torch.randn(num_envs, knobs.n_steps, 1),
            "done": ended,
            "terminated": ended.clone(),
        }
        rollout = TensorDict({"observation": seen[:, :-1], "next": after}, [num_envs, knobs.n_steps])
        with torch.no_grad():
            return actor(rollout)

    rollouts, taken, seconds = knobs.total_timesteps // rows, 0, 0.0
    for _ in range(rollouts):
        rollout = made_rollout()
        begin = time.perf_counter()
        with torch.no_grad():
            rollout = advantage(rollout)
        for _ in range(knobs.n_epochs):
            buffer.extend(rollout.reshape(-1))
            for batch in buffer:
                optimizer.zero_grad(set_to_none=True)
                parts = loss(batch)
                (parts["loss_objective"] + parts["loss_critic"] + parts["loss_entropy"]).backward()
                nn.utils.clip_grad_norm_(loss.parameters(), knobs.max_grad_norm)
                optimizer.step()
                taken += 1
        seconds += time.perf_counter() - begin
    return {"steps": rollouts * rows, "gradient_steps": taken, "train_s": seconds, "update_s": seconds}


KINDS: dict[str, Callable[[Path, str, str], Timing]] = dict.fromkeys(
    ("dummy", "scalar", "subproc", "masked", "shared"), train_sb3
)
KINDS["torchrl"] = update_torchrl


def main() -> None:
    spec_file, symbol, kind = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    keep_freed_memory()  # peers get the memory settings of our trainers: they help them as well
    if "OMP_NUM_THREADS" in os.environ:  # one of several processes; alone it takes the threads that PyTorch gives it
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    print(json.dumps(KINDS[kind](spec_file, symbol, kind)))


if __name__ == "__main__":
    main()
