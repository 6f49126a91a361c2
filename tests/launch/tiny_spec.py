"""A spec of two agents that trains in a second, for each shipped trainer."""

_SIZES = {
    "ppo": "hidden = [16]",
    "ppo_stacked": "hidden = [16]",
    "ppo_shared": "d_model = 16, heads = 2, layers = 1, head_width = 16",
}


def tiny_spec(trainer: str) -> str:
    """The text of the spec."""
    return f"""
name = "tiny"
trainer = "{trainer}"
symbols = ["AAPL", "AMD"]
data = {{ source = "sample" }}
ppo = {{ total_timesteps = 512, n_steps = 64, n_epochs = 2, {_SIZES[trainer]} }}
evaluation = {{ every = 256 }}
checkpoints = {{ every = 256 }}
env = {{ num_envs = 4 }}
compute.compile = "off"
"""
