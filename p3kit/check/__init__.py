"""Pre-flight probes: what can be known about a spec before anything is trained."""

from p3kit.check.environment import probe_environment
from p3kit.check.look_ahead import probe_features
from p3kit.check.probe import Probe
from p3kit.check.reward_exploits import probe_reward
from p3kit.check.trainer_probes import probe_leak, probe_learning, probe_update

__all__ = [
    "Probe",
    "probe_environment",
    "probe_features",
    "probe_leak",
    "probe_learning",
    "probe_reward",
    "probe_update",
]
