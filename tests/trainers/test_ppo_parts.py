"""The parts of trainers/ppo.py against slow, plain references."""

from __future__ import annotations

import math
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st


def plain_gae(reward, value, next_value, terminated, done, gamma, gae_lambda):
    """Equation 16 of Schulman et al. 2016, summed forward from every step up to the end of its episode."""
    steps, envs = reward.shape
    advantage = torch.zeros(steps, envs, dtype=torch.float64)
    for env in range(envs):
        for start in range(steps):
            weight = 1.0
            for t in range(start, steps):
                bootstrap = 0.0 if terminated[t, env] else float(next_value[t, env])
                delta = float(reward[t, env]) + gamma * bootstrap - float(value[t, env])
                advantage[start, env] += weight * delta
                weight *= gamma * gae_lambda
                if done[t, env]:
                    break
    return advantage


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), gamma=st.floats(0, 1), gae_lambda=st.floats(0, 1))
def test_gae_equals_the_plain_sum(ppo: ModuleType, seed: int, gamma: float, gae_lambda: float) -> None:
    torch.manual_seed(seed)
    reward, value, next_value = (torch.randn(12, 3, dtype=torch.float64) for _ in range(3))
    terminated, truncated = (torch.rand(12, 3) < 0.15 for _ in range(2))
    done = terminated | truncated
    ours = ppo.compute_gae(reward, value, next_value, terminated, done, gamma, gae_lambda)
    plain = plain_gae(reward, value, next_value, terminated, done, gamma, gae_lambda)
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)


def test_truncation_bootstraps_and_termination_does_not(ppo: ModuleType) -> None:
    reward, value = torch.zeros(2, 2), torch.zeros(2, 2)
    next_value = torch.full((2, 2), 10.0)
    terminated = torch.tensor([[True, False], [True, False]])
    done = torch.ones(2, 2, dtype=torch.bool)
    advantage = ppo.compute_gae(reward, value, next_value, terminated, done, 0.9, 0.95)
    assert advantage[:, 0].tolist() == [0, 0]
    assert advantage[:, 1].tolist() == [9, 9]


def batch_of(ppo: ModuleType, rows: int, seed: int = 0, actions: int = 7):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(rows, actions, generator=generator) < 0.6
    mask[:, 0] = True
    logits = torch.randn(rows, actions, generator=generator)
    log_prob = ppo.masked_log_softmax(logits, mask)
    action, chosen = ppo.sample_action(log_prob, ppo.gumbel_noise((rows, actions), generator))
    advantage, returns, value = (torch.randn(rows, generator=generator) for _ in range(3))
    return logits, ppo.Minibatch(action, chosen, advantage, returns, value, mask)


SETTINGS = {"clip_range": 0.2, "ent_coef": 0.01, "vf_coef": 0.5, "value_loss": "mse"}


@pytest.mark.parametrize("kind", ["mse", "huber", "clipped"])
def test_loss_equals_the_plain_loop(ppo: ModuleType, kind: str) -> None:
    _, batch = batch_of(ppo, 50)
    torch.manual_seed(1)
    logits, value = torch.randn(50, 7), torch.randn(50)
    loss, stats = ppo.ppo_loss(logits, value, batch, **(SETTINGS | {"value_loss": kind}))
    policy_loss = value_loss = entropy = 0.0
    for i in range(50):
        valid = [a for a in range(7) if batch.mask[i, a]]
        normaliser = math.log(sum(math.exp(logits[i, a]) for a in valid))
        log_prob = {a: float(logits[i, a]) - normaliser for a in valid}
        ratio = math.exp(log_prob[int(batch.action[i])] - float(batch.log_prob[i]))
        gain = float(batch.advantage[i])
        policy_loss -= min(ratio * gain, min(max(ratio, 0.8), 1.2) * gain) / 50
        entropy -= sum(math.exp(p) * p for p in log_prob.values()) / 50
        error, move = float(value[i] - batch.returns[i]), float(value[i] - batch.value[i])
        near = float(batch.value[i]) + min(max(move, -0.2), 0.2) - float(batch.returns[i])
        value_loss += {
            "mse": error**2,
            "huber": error**2 if abs(error) <= 1 else 2 * abs(error) - 1,
            "clipped": max(error**2, near**2),
        }[kind] / 50
    assert float(loss) == pytest.approx(policy_loss + 0.5 * value_loss - 0.01 * entropy, abs=1e-5)
    assert stats[:3].tolist() == pytest.approx([policy_loss, value_loss, entropy], abs=1e-5)


def test_ratio_is_one_before_the_first_step(ppo: ModuleType) -> None:
    logits, batch = batch_of(ppo, 200)
    _, stats = ppo.ppo_loss(logits, torch.zeros(200), batch, **SETTINGS)
    assert float(stats[ppo.KL]) == pytest.approx(0, abs=1e-6)
    assert float(stats[ppo.LOSS_METRICS.index("policy/clip_fraction")]) == 0


def test_masked_actions_are_never_drawn_and_add_no_entropy(ppo: ModuleType) -> None:
    logits, batch = batch_of(ppo, 5_000)
    assert batch.mask.gather(-1, batch.action.unsqueeze(-1)).all()
    only_hold = torch.zeros(4, 7, dtype=torch.bool)
    only_hold[:, 0] = True
    single = batch._replace(mask=only_hold, **{f: getattr(batch, f)[:4] for f in batch._fields if f != "mask"})
    single = single._replace(action=torch.zeros(4, dtype=torch.long), log_prob=torch.zeros(4))
    loss, stats = ppo.ppo_loss(logits[:4].requires_grad_(), torch.zeros(4), single, **SETTINGS)
    loss.backward()
    assert stats[ppo.LOSS_METRICS.index("policy/entropy")] == 0
    assert stats[ppo.LOSS_METRICS.index("policy/entropy_norm")] == 0


def test_sampling_follows_the_probabilities(ppo: ModuleType) -> None:
    log_prob = torch.tensor([0.5, 0.3, 0.2]).log().expand(60_000, 3)
    action, _ = ppo.sample_action(log_prob, ppo.gumbel_noise((60_000, 3), torch.Generator().manual_seed(3)))
    shares = torch.bincount(action, minlength=3) / 60_000
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.2]), atol=0.01, rtol=0)


def test_policy_starts_nearly_uniform_and_nets_share_nothing(ppo: ModuleType) -> None:
    net = ppo.ActorCritic(40, 7, ppo.Args(), torch.Generator().manual_seed(0))
    logits, _ = net(torch.randn(100, 40))
    assert logits.std() < 0.05
    shared = {id(p) for p in net.policy.parameters()} & {id(p) for p in net.value.parameters()}
    assert not shared


def test_dropout_masks_hold_for_an_iteration_and_keep_the_scale(ppo: ModuleType) -> None:
    args = ppo.Args(dropout=0.3, hidden=(64, 500))
    keep = ppo.dropout_masks(args, 40, torch.Generator().manual_seed(0))
    assert [tuple(layer.shape) for layer in keep] == [(40, 64), (40, 500)]
    assert float(keep[1].mean()) == pytest.approx(1.0, abs=0.03)
    assert ppo.dropout_masks(ppo.Args(), 40, torch.Generator()) is None


def test_accumulated_gradients_equal_the_larger_batch(ppo: ModuleType) -> None:
    """accumulation_steps minibatches weighted by their share give the gradient of the whole."""
    net = ppo.ActorCritic(10, 7, ppo.Args(hidden=(16,)), torch.Generator().manual_seed(0))
    _, batch = batch_of(ppo, 100)
    observation = torch.randn(100, 10)

    def gradient(size: int) -> torch.Tensor:
        net.zero_grad()
        for rows in torch.arange(100).split(size):
            logits, value = net(observation[rows])
            loss, _ = ppo.ppo_loss(logits, value, ppo.Minibatch(*(column[rows] for column in batch)), **SETTINGS)
            (loss * len(rows) / 100).backward()
        return torch.cat([p.grad.flatten() for p in net.parameters()])

    torch.testing.assert_close(gradient(30), gradient(100), rtol=1e-4, atol=1e-7)


def test_a_step_that_is_not_finite_is_not_taken() -> None:
    """The fused optimiser honours `found_inf`, which the trainer sets from the gradient norm."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    weight.grad = torch.full((3,), float("nan"))
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert weight.tolist() == [1, 1, 1]
    weight.grad = torch.ones(3)
    optimizer.found_inf = torch.tensor(0.0)
    optimizer.step()
    assert (weight < 1).all()


def test_an_update_equals_that_of_stable_baselines3(ppo: ModuleType) -> None:
    """The same rollout and first weights give the same advantages, and the same weights after 3 epochs of one batch."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback

    knobs = {"batch_size": 256, "n_epochs": 3, "learning_rate": 1e-3, "gamma": 0.97, "gae_lambda": 0.8}
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=256, ent_coef=0.01, seed=1, device="cpu", **knobs)
    args = ppo.Args(**knobs, ent_coef=0.01)
    net = ppo.ActorCritic(4, 2, args, torch.Generator())
    body = model.policy.mlp_extractor
    pairs = [
        (net.policy, body.policy_net, model.policy.action_net),
        (net.value, body.value_net, model.policy.value_net),
    ]

    def same(load: bool) -> None:
        for ours, hidden, head in pairs:
            for layer, other in zip(ours.layers, [*hidden[::2], head], strict=True):
                if load:
                    layer.load_state_dict(other.state_dict())
                for name, value in layer.state_dict().items():
                    torch.testing.assert_close(value, other.state_dict()[name], rtol=1e-4, atol=1e-6)

    kept = {}

    class Keep(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            for name in ("observations", "actions", "rewards", "values", "log_probs", "advantages", "episode_starts"):
                kept[name] = torch.as_tensor(getattr(model.rollout_buffer, name)).clone()
            kept["last"] = torch.as_tensor(model._last_obs), torch.as_tensor(model._last_episode_starts)

    same(load=True)
    model.learn(256, callback=Keep())

    last, last_done = kept["last"]
    done = torch.cat([kept["episode_starts"][1:].bool(), last_done.view(1, 1)])
    assert done.sum() > 5
    value = kept["values"]
    next_value = torch.cat([value[1:], net(last)[1].detach().view(1, 1)])
    advantage = ppo.compute_gae(kept["rewards"], value, next_value, done, done, args.gamma, args.gae_lambda)
    torch.testing.assert_close(advantage, kept["advantages"], rtol=1e-4, atol=1e-4)

    batch = ppo.Minibatch(
        action=kept["actions"].flatten().long(),
        log_prob=kept["log_probs"].flatten(),
        advantage=ppo.normalise(advantage.flatten()),
        returns=(advantage + value).flatten(),
        value=value.flatten(),
        mask=torch.ones(256, 2, dtype=torch.bool),
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=args.learning_rate, eps=1e-5, weight_decay=0.0)
    for _ in range(args.n_epochs):
        logits, values = net(kept["observations"].flatten(0, 1))
        constants = {"clip_range": args.clip_range, "ent_coef": args.ent_coef, "vf_coef": args.vf_coef}
        loss, _ = ppo.ppo_loss(logits, values, batch, **constants, value_loss=args.value_loss)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), args.max_grad_norm)
        optimizer.step()
    same(load=False)
