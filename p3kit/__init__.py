"""p3kit: declarative experiment specs for PPO trading agents."""

__version__ = "0.1.0"
