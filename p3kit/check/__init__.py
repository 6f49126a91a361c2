"""Pre-flight probes: what can be known about a spec before anything is trained."""

from p3kit.check.environment import probe_environment
from p3kit.check.probe import Probe
from p3kit.check.reward import probe_reward

__all__ = ["Probe", "probe_environment", "probe_reward"]
