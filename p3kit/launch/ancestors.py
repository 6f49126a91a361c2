"""The trained agents that a spec's `[init]` starts from: found, compared with the new agents, and copied.

What does not fit is an error before the first run directory is made, and names both sides.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p3kit.errors import Fault, InputError, P3kitError, RunNotFound, SpecError
from p3kit.home import home
from p3kit.market import FeatureRecipe
from p3kit.rundir import RunDir, find_checkpoint, find_run
from p3kit.spec import read_trainer
from p3kit.spec.models import parse_range

if TYPE_CHECKING:
    from p3kit.market import SymbolData
    from p3kit.plan import AgentPlan, RunPlan
    from p3kit.spec import Spec
    from p3kit.spec.models import Init

FROM = "init.from"
EXPORTED = "weights.safetensors"
FIXED = (
    "env.window", "observation.normalize", "ppo.hidden", "ppo.activation", "ppo.patch", "ppo.d_model", "ppo.layers",
    "ppo.heads", "ppo.head_width", "ppo.token_weight",
)  # fmt: skip
"""Settings that the weights of an agent are bound to. A trainer of the user's may have more; its tensors show them."""


@dataclass(frozen=True)
class Ancestor:
    """A trained agent whose weights another one starts from."""

    plan: Mapping[str, Any]
    """Its entry in run.json, or what a file has of it: name, symbol, spec."""
    data: Mapping[str, Any]
    """The entry of its symbol in run.json."""
    run: RunDir | None
    file: Path | None = None
    """Its weights, where it comes from a checkpoint or an exported policy in place of a run."""

    @property
    def name(self) -> str:
        return str(self.plan["name"])

    @property
    def label(self) -> str:
        """`run-42/AAPL`."""
        where = self.run.name if self.run else self.file.stem if self.file else ""
        if self.is_export and self.file:
            where = self.file.resolve().parent.name
        return f"{where}/{self.name}"

    @property
    def is_export(self) -> bool:
        """True for an exported policy, which has weights and no statistics that go on."""
        return self.file is not None and self.file.name == EXPORTED

    @property
    def symbol(self) -> str:
        return str(self.plan["symbol"])

    @property
    def recipe(self) -> FeatureRecipe:
        """The features that its weights were trained on. Raises InputError for an agent of an older p3kit."""
        stored = self.data.get("recipe")
        if stored is None:
            what = "was trained by an older p3kit, which did not record its features"
            raise InputError(self.label, what, "train it again, or take [init] out")
        return FeatureRecipe.from_json(stored)

    @property
    def trained_until(self) -> str:
        """Time of the last bar that it, or an agent that it came from, was trained on."""
        own = str(self.data["split_days"]["train"][1])
        return max(own, str((self.plan.get("init") or {}).get("trained_until", own)))

    def entry(self, spec: Spec, file: str, sha256: str, checkpoint: str) -> dict[str, Any]:
        """The part of the new agent's entry in run.json that names this one."""
        return {
            "from": self.label,
            "agent": self.name,
            "checkpoint": checkpoint,
            "file": file,
            "sha256": sha256,
            "optimizer": init_of(spec).optimizer,
            "reward_scale": self.has_reward_of(spec),
            "trained_until": self.trained_until,
            "lineage": [self.label, *(self.plan.get("init") or {}).get("lineage", ())],
        }

    def has_reward_of(self, spec: Spec) -> bool:
        """True where its rewards are those of `spec`, so that the statistics of their scale still hold."""
        ours = spec.model_dump(mode="json")["reward"]
        return bool(not self.is_export and ours == self.plan["spec"].get("reward"))


class Ancestry:
    """The ancestor of each agent of some plans; empty for a spec without `[init]`."""

    def __init__(self, ancestors: Mapping[str, Ancestor], agents: Sequence[AgentPlan]) -> None:
        self._ancestors, self._agents = ancestors, agents
        self.recipes = _recipes(ancestors, agents)
        """By symbol, the recipe by which its features are made: that of the ancestor that traded it."""

    @classmethod
    def find(cls, agents: Sequence[AgentPlan], runs_root: Path, place: str = FROM) -> Ancestry:
        """The ancestor of each agent: the one of its name, else the only one of its symbol, else the one agent that
        `init.from` names. Raises SpecError with all faults at once, settings that do not fit included; `place` is where
        `init.from` was written."""
        try:
            return cls._find(agents, runs_root)
        except SpecError as error:
            if place == FROM:
                raise
            faults = [Fault(place, f"{fault.where}: {fault.what}", fault.hint) for fault in error.faults]
            raise SpecError(faults) from error

    @classmethod
    def _find(cls, agents: Sequence[AgentPlan], runs_root: Path) -> Ancestry:
        init = agents[0].spec.init if agents else None
        if init is None:
            return cls({}, agents)
        pool = {one.label: one for reference in init.sources for one in _open(reference, runs_root)}
        for_all = next(iter(pool.values())) if len(pool) == 1 and _names_agent(init.sources[0], pool) else None
        found: dict[str, Ancestor] = {}
        faults: list[Fault] = []
        for agent in agents:
            fitting = [one for one in pool.values() if one.name == agent.name]
            fitting = fitting or [one for one in pool.values() if one.symbol == agent.symbol]
            fitting = fitting or ([for_all] if for_all else [])
            if len(fitting) == 1:
                found[agent.name] = fitting[0]
                faults += _differences(agent, fitting[0])
            else:
                faults.append(_not_one(agent, fitting, list(pool)))
        if faults:
            raise SpecError(list(dict.fromkeys(faults)))
        return cls(found, agents)

    def notes(self) -> list[str]:
        """Sentences on what the agents take over, and what they do not."""
        return [_note(agent, self._ancestors[agent.name]) for agent in self._agents if agent.name in self._ancestors]

    def check(self, plans: Sequence[RunPlan], market: Mapping[str, SymbolData], *, networks: bool = True) -> list[str]:
        """Check what needs the bars; returns notes. Raises SpecError where the test split has bars that the weights
        were trained on, and InputError where the network of a trainer cannot take them, by its own `load_policy`."""
        notes = []
        for plan in plans:
            for agent in plan.agents:
                if agent.name in self._ancestors:
                    notes += _days(plan, agent, self._ancestors[agent.name], market[agent.symbol])
        if networks:
            self._check_networks(plans, market)
        return notes

    def _check_networks(self, plans: Sequence[RunPlan], market: Mapping[str, SymbolData]) -> None:
        for plan in plans:
            self._check_shared(plan)
            for agent in plan.agents:
                if agent.name in self._ancestors:
                    _check_weights(plan, agent, self._ancestors[agent.name], market[agent.symbol])

    def _check_shared(self, plan: RunPlan) -> None:
        """Agents that share an encoder start from one: from one checkpoint, or from checkpoints of one step."""
        mine = [agent for agent in plan.agents if agent.name in self._ancestors]
        paths = {checkpoint_of(agent.spec, self._ancestors[agent.name]) for agent in mine}
        if read_trainer(str(plan.trainer)).agents in ("one", "stack") or len(paths) < 2:
            return
        steps = {(path.parent, re.match(r"best-\d+|", path.stem)[0]) for path in paths}  # type: ignore[index]
        if len(steps) > 1:
            files = ", ".join(sorted(path.stem for path in paths))
            what = f"the agents share an encoder, which is not the same in {files}"
            raise SpecError([Fault("init.checkpoint", what, 'take checkpoint = "last" of one run')])

    def hash_of(self, agent: AgentPlan) -> str | None:
        """SHA-256 of the weights that an agent starts from; None for new ones."""
        if (one := self._ancestors.get(agent.name)) is None:
            return None
        from p3kit.runtime.checkpoints import state_hash

        return state_hash(read_weights(checkpoint_of(agent.spec, one)))

    def copy_to(self, run: RunDir, plan: RunPlan) -> None:
        """Copy the weights that the agents of a run start from into its directory, and name them in its run.json."""
        if not any(agent.name in self._ancestors for agent in plan.agents):
            return
        from p3kit.runtime.checkpoints import save_checkpoint, state_hash

        files: dict[Path, tuple[str, str]] = {}
        entries = {}
        for agent in plan.agents:
            if (one := self._ancestors.get(agent.name)) is None:
                continue
            path = checkpoint_of(agent.spec, one)
            if path not in files:
                file, state = f"start-{len(files) + 1}", read_weights(path)
                save_checkpoint(run.checkpoint(file), state, compress=agent.spec.checkpoints.compress)
                files[path] = file, state_hash(state)
            entries[agent.name] = {"init": one.entry(agent.spec, *files[path], path.stem)}
        run.update_info(agents=[{**own, **entries.get(own["name"], {})} for own in run.info()["agents"]])


def init_of(spec: Spec) -> Init:
    """The table `[init]` of a spec that has one."""
    if spec.init is None:
        raise SpecError([Fault("init", "missing", 'for example [init] with from = "run-42"')])
    return spec.init


def checkpoint_of(spec: Spec, ancestor: Ancestor) -> Path:
    """The file of the weights that `init.checkpoint` names. Raises InputError where there is none."""
    wanted = init_of(spec).checkpoint
    if ancestor.run is None:
        return ancestor.file or Path()
    try:
        return ancestor.run.checkpoint(find_checkpoint(ancestor.run, ancestor.name, wanted))
    except InputError as error:
        have = ", ".join(path.stem for path in ancestor.run.checkpoints()) or "none"
        what = f'"{wanted}": {ancestor.label} has no such checkpoint'
        raise InputError("init.checkpoint", what, f"it has {have}") from error


def read_weights(path: Path) -> dict[str, Any]:
    """The trainer's part of a checkpoint, or the networks of an exported policy."""
    from p3kit.runtime.card import weights_of
    from p3kit.runtime.checkpoints import load_checkpoint

    if path.name != EXPORTED:
        return weights_of(load_checkpoint(path))
    import safetensors.torch

    tensors = safetensors.torch.load(path.read_bytes())
    return {key: value for key, value in tensors.items() if key.split("/")[0] not in ("observation", "reward")}


# --- inside -----------------------------------------------------------------------------------------------------------


def _open(reference: str, runs_root: Path) -> list[Ancestor]:
    """The agents that a reference names. Raises SpecError where there is none, or none that could be an ancestor."""
    if found := _open_file(reference):
        return found
    try:
        run, agent = find_run(runs_root, reference)
        info = run.info()
    except RunNotFound as error:
        (fault,) = error.faults
        raise SpecError([Fault(FROM, f'"{reference}": {fault.what}', fault.hint)]) from error
    if info.get("env_id"):
        what = f'"{reference}": {run.name} trains on {info["env_id"]}, not on bars'
        raise SpecError([Fault(FROM, what, "name a run on bars")])
    data = info.get("data") or {}
    return [
        Ancestor(plan, data.get(plan["symbol"]) or {}, run) for plan in info["agents"] if agent in (None, plan["name"])
    ]


def _open_file(reference: str) -> list[Ancestor]:
    """The agents of a checkpoint, or of the folder of an exported policy; none where the reference is a run."""
    path = home(reference)
    if path.suffix == ".pt" and path.is_file():
        from p3kit.runtime.card import cards_in
        from p3kit.runtime.checkpoints import load_checkpoint

        return [Ancestor(card, card["data"], None, path) for card in cards_in(load_checkpoint(path)).values()]
    if (path / "card.json").is_file() and (path / EXPORTED).is_file():
        return [_open_export(path)]
    return []


def _open_export(folder: Path) -> Ancestor:
    """The agent of an exported policy. Raises SpecError where a file is damaged, or where the statistics are missing
    that its network needs."""
    remedy = "export it again, or name its run"
    try:
        card = json.loads((folder / "card.json").read_bytes())
        plan = {"name": card["name"].partition("/")[2], "symbol": card["symbol"], "spec": card["spec"]}
        data, digest = card["data"], hashlib.sha256((folder / EXPORTED).read_bytes()).hexdigest()
        intact = card["files"][EXPORTED] == digest
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise SpecError([Fault(FROM, f'"{folder}": is damaged ({error!r})', remedy)]) from error
    if not intact:
        raise SpecError([Fault(FROM, f'"{folder}": {EXPORTED} is torn or altered', remedy)])
    if plan["spec"].get("observation", {}).get("normalize") == "running":
        what = f'"{folder}": an exported policy has no running statistics to go on with'
        raise SpecError([Fault(FROM, what, "name its run")])
    return Ancestor(plan, data, None, folder / EXPORTED)


def _names_agent(reference: str, pool: Mapping[str, Ancestor]) -> bool:
    return any(one.run is None or reference.rstrip("/").endswith(f"/{one.name}") for one in pool.values())


def _not_one(agent: AgentPlan, fitting: Sequence[Ancestor], pool: Sequence[str]) -> Fault:
    if fitting:
        what = f"{agent.name} could start from {' or '.join(one.label for one in fitting[:3])}"
        return Fault(FROM, what, f'name one: from = "{fitting[0].label}"')
    what = f"{agent.name} has neither the name nor the symbol of {', '.join(pool[:5])}"
    return Fault(FROM, what, f'one agent for all is named as from = "{pool[0]}"')


def _recipes(ancestors: Mapping[str, Ancestor], agents: Sequence[AgentPlan]) -> dict[str, FeatureRecipe]:
    found: dict[str, tuple[str, FeatureRecipe]] = {}
    for agent in agents:
        one = ancestors.get(agent.name)
        if one is None:
            continue
        recipe = one.recipe
        if one.symbol != agent.symbol:
            continue
        label, first = found.setdefault(agent.symbol, (one.label, recipe))
        if first != recipe:
            what = f"{label} and {one.label} normalise the features of {agent.symbol} differently"
            raise SpecError([Fault(FROM, what, "start agents of one symbol from one run")])
    return {symbol: recipe for symbol, (_, recipe) in found.items()}


def _note(agent: AgentPlan, one: Ancestor) -> str:
    init = agent.spec.init
    taken = "weights, statistics and optimiser" if init and init.optimizer else "weights and statistics"
    text = f"init: {agent.name} starts from {one.label} ({taken})"
    if one.symbol != agent.symbol:
        text += f"; features are normalised by the bars of {agent.symbol}, not of {one.symbol}"
    if not one.has_reward_of(agent.spec):
        text += "; the reward is another one, so the statistics of its scale are reset"
    return text


def _differences(agent: AgentPlan, ancestor: Ancestor) -> Iterator[Fault]:
    """Settings of the agent to which the weights do not fit."""
    ours = agent.spec.model_dump(mode="json")
    for path in FIXED:
        here, there = _setting(ours, path), _setting(ancestor.plan["spec"], path)
        if here != there:
            what = f"{path} is {there} in {ancestor.label} and {here} for {agent.name}"
            yield Fault(FROM, what, f"give {path} the value of {ancestor.label}, or take [init] out")


def _days(plan: RunPlan, agent: AgentPlan, one: Ancestor, bars: SymbolData) -> list[str]:
    """A note where the validation split has bars that the weights were trained on. Raises SpecError for the test
    split."""
    if one.symbol != agent.symbol:
        return []
    begins = {
        name: str(parse_range(getattr(plan.spec.data.split, name))[0])
        if plan.windows
        else str(bars.timestamps[bars.splits[name][0]])[:19]
        for name in ("validation", "test")
    }
    known = f"{one.label} was trained on bars until {one.trained_until[:10]}"
    if begins["test"] <= one.trained_until:
        what = f"begins on {begins['test'][:10]} for {agent.name}, and {known}"
        raise SpecError([Fault("data.split.test", what, "begin the test split after that day, or take [init] out")])
    if begins["validation"] <= one.trained_until:
        return [f"init: validation of {agent.name} begins on {begins['validation'][:10]}, and {known}: its results are "
                "too good"]  # fmt: skip
    return []


def _setting(tables: Mapping[str, Any], path: str) -> Any:
    table, _, key = path.partition(".")
    return tables.get(table, {}).get(key, "not there")


def _check_weights(plan: RunPlan, agent: AgentPlan, ancestor: Ancestor, bars: SymbolData) -> None:
    import torch

    from p3kit.runtime.policy import load_policy_of, load_weights, sizes_on_bars
    from p3kit.runtime.trainer_import import import_trainer

    module = import_trainer(plan.trainer)
    if not hasattr(module, "load_policy"):  # its own process compares the tensors
        return
    sizes = sizes_on_bars(agent.spec, bars)
    state = read_weights(checkpoint_of(agent.spec, ancestor))
    args, device = module.Args(**agent.spec.ppo.model_dump()), torch.device("cpu")
    try:
        policy = load_weights(
            load_policy_of(module), args, agent.spec, state, device, nullcontext, agent=ancestor.name, **sizes
        )
        policy(torch.zeros(1, sizes["observation_size"]), torch.ones(1, sizes["num_actions"], dtype=torch.bool))
    except P3kitError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [repr(error)]
        what = f"{agent.name} cannot take the weights of {ancestor.label} ({lines[-1].strip()})"
        remedy = f"{plan.trainer.name} needs the network and the features of the earlier training"
        raise InputError(FROM, what, remedy) from error
