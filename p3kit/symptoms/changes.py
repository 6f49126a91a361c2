"""Changes of spec values that several symptoms share, each named by its effect."""

from __future__ import annotations

from p3kit.symptoms.symptom import Cause, Change

LOWER_LR = Change("ppo.learning_rate", by=0.33, at_least=1e-5, usual=3e-4)
HALVE_LR = Change("ppo.learning_rate", by=0.5, at_least=1e-5, usual=3e-4)
TENTH_LR = Change("ppo.learning_rate", by=0.1, at_least=1e-5, usual=3e-4)
GUIDE_LR = Change("ppo.learning_rate", to=3e-4)
CLIP_GRADIENTS = Change("ppo.max_grad_norm", to=0.3)
CLIP_REWARD = Change("reward.clip", to=5.0)
CLIP_OBSERVATION = Change("observation.clip", to=10.0)
SCALE_REWARD = Change("reward.scaling", to="running")
MORE_ENTROPY = Change("ppo.ent_coef", by=5.0, at_least=0.05, at_most=0.10, usual=0.01)
LESS_ENTROPY = Change("ppo.ent_coef", by=0.1, at_least=0.001, usual=0.01)
LOWER_COST = Change("reward.weights.cost", by=0.33, at_least=0.03, usual=0.15)
LARGER_BATCH = Change("ppo.batch_size", by=2, usual=64)
HALVE_BATCH = Change("ppo.batch_size", by=0.5, at_least=8, usual=64)
ACCUMULATE = Change("ppo.accumulation_steps", by=2, usual=1)
HALVE_ENVS = Change("env.num_envs", by=0.5, at_least=1, usual=8)
MORE_ENVS = Change("env.num_envs", by=2, usual=8)
HALVE_EPOCHS = Change("ppo.n_epochs", by=0.5, at_least=1, usual=10)
STOP_AT_KL = Change("ppo.target_kl", to=0.02)
RAISE_VF = Change("ppo.vf_coef", to=1.0)
HUBER = Change("ppo.value_loss", to="huber")
SHRINK_COMPONENT = Change("reward.weights.{component}", by=0.33, at_least=0.01, usual=0.15)
SILENCE_COMPONENT = Change("reward.weights.{component}", by=0.2, at_least=0.01, usual=0.15)

ONE_ACTION = Cause(
    "one_action",
    "the most probable action repeats, often HOLD or half a sale, and the policy earns with less probable ones",
    (Change("evaluation.action", to="sharpened"),),
    automatic=False,
)
"""Of several rows: the rule greedy hides what the policy has learnt."""
