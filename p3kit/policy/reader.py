"""The exported policy without p3kit: bars and an account in, the agent's decision out. Needs numpy and onnxruntime.

    python policy.py bars.csv                     decision of a flat account on the last bar
    python policy.py bars.csv account.json        decision of your account
    python policy.py bars.csv --from 2024-01-02 --to 2024-12-31    one account, stepped from day to day

`card.json` beside this file holds every number and describes every formula; `network.onnx` is the network. `bars.csv`
has a header line with a column of times (time, date, timestamp or datetime), `close`, and the other columns of the
training, oldest bar first. Nothing here sends orders to a broker.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

TIES = 1e-9  # relative width of a tie of two amounts of money
BUYS = ("BUY_SMALL", "BUY_MEDIUM", "BUY_LARGE")
PRICES = ("open", "high", "low", "close", "adj_close", "volume")
TIMES = ("time", "date", "timestamp", "datetime")

Array = np.ndarray[Any, np.dtype[Any]]
Account = dict[str, Any]
Bars = dict[str, Any]

# ── bars ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_bars(path: str, card: dict[str, Any]) -> Bars:
    """Columns of a CSV file by lower-case name: `time` as text, the others as (T,) float64."""
    with Path(path).open(newline="", encoding="utf-8-sig") as file:
        header, *rows = [row for row in csv.reader(file) if row]
    own = card["features"]["own_columns"]
    mapped = card.get("spec", {}).get("data", {}).get("columns", {}).get("own", {})
    meant = {plain(str(mapped.get(name, name))): name for name in own} | {plain(name): name for name in own}
    names = [meant.get(plain(cell), cell.strip().lower().replace(" ", "_")) for cell in header]
    time = next((names.index(name) for name in TIMES if name in names), None)
    if time is None or "close" not in names:
        raise SystemExit(f"{path}: needs a column close and one of {', '.join(TIMES)}")
    bars: Bars = {"time": [row[time] for row in rows]}
    if any(later <= earlier for earlier, later in zip(bars["time"], bars["time"][1:], strict=False)):
        raise SystemExit(f"{path}: times are not in ascending order; sort the rows, oldest first")
    for place, name in enumerate(names):
        if name in (*PRICES, *own):
            begins = (
                card["features"].get("look_back", 0) if name in own else 0
            )  # no observation reaches the bars before
            where = f"{path}: row {{}}: {name}"
            bars[name] = np.array([number(row, place, where.format(i + 2), i < begins) for i, row in enumerate(rows)])
    if missing := [name for name in (*card["features"]["price_columns"], *own) if name not in bars]:
        raise SystemExit(f"{path}: has no column {', '.join(missing)}; the agent was trained with it")
    if card["features"]["adjust"] != "off" and "adj_close" in bars:
        factor = bars["adj_close"] / bars["close"]
        bars |= {name: bars[name] * factor for name in ("open", "high", "low") if name in bars}
        bars["close"] = bars["adj_close"]
    return bars


def microseconds(time: str) -> int:
    """Microseconds from 1970 to a time in ISO 8601; one with a zone is read in UTC, local midnight as the day."""
    try:
        moment = datetime.fromisoformat(time.strip())
    except ValueError:
        raise SystemExit(f"{time!r} is no time in ISO 8601: write 2024-03-08 or 2024-03-08T14:30:00") from None
    if moment.tzinfo is not None and moment.time() != datetime.min.time():
        moment -= moment.utcoffset() or timedelta(0)
    return (moment.replace(tzinfo=None) - datetime(1970, 1, 1)) // timedelta(microseconds=1)


def plain(name: str) -> str:
    """A name in lower case, letters and digits only."""
    return "".join(sign for sign in name.lower() if sign.isalnum())


def number(row: list[str], place: int, where: str, may_miss: bool = False) -> float:
    """The finite number in a cell. NaN where it is none and may be missing."""
    try:
        value = float(row[place])
    except (ValueError, IndexError):
        value = np.nan
    if not np.isfinite(value) and not may_miss:
        raise SystemExit(f"{where} is not a number")
    return value


# ── features ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def rolling(series: Array, bars: int, reduce: Any) -> Array:
    """`reduce` over the last `bars` values at each row, (T,); NaN in the first bars − 1 rows."""
    out = np.full(len(series), np.nan)
    if len(series) >= bars:
        out[bars - 1 :] = reduce(sliding_window_view(series, bars))
    return out


def add(windows: Array, weights: Array | None = None) -> Array:
    """Sums of the rows, (R, W) → (R,), added from the oldest value on."""
    total = np.zeros(len(windows))
    for age in range(windows.shape[1]):
        total += windows[:, age] if weights is None else windows[:, age] * weights[age]
    return total


def mean(windows: Array) -> Array:
    return np.asarray(add(windows) / windows.shape[1])


def std(windows: Array) -> Array:
    middle, total = mean(windows), np.zeros(len(windows))
    for age in range(windows.shape[1]):
        total += np.square(windows[:, age] - middle)
    return np.asarray(np.sqrt(total / (windows.shape[1] - 1)))


def features(bars: Bars, card: dict[str, Any]) -> Array:
    """Normalised features (T, F) float32 in the order of the card; NaN in the first `look_back` rows."""
    described = card["features"]
    raw = raw_features(bars, described["price_columns"], described["bars_per_year"], described["look_back"])
    table = np.empty((len(bars["close"]), len(described["list"])), dtype=np.float32)
    for i, feature in enumerate(described["list"]):
        values = bars[feature["name"]] if feature["name"] in described["own_columns"] else raw[feature["name"]]
        table[:, i] = (values - feature["mean"]) / feature["scale"]
    table[: described["look_back"]] = np.nan
    return table


def raw_features(bars: Bars, columns: list[str], bars_per_year: float, look_back: int) -> dict[str, Array]:
    """Every built-in feature before normalisation, by name; the card has the formulas as text."""
    close = bars["close"]
    high = bars["high"] if {"high", "low"} <= set(columns) else close
    low = bars["low"] if {"high", "low"} <= set(columns) else close
    returns = np.full(len(close), np.nan)
    returns[1:] = np.log(close[1:] / close[:-1])
    volatility, short, long = (rolling(returns, span, std) for span in (20, 5, 60))
    sigma = np.maximum(volatility, 1e-6)
    out: dict[str, Array] = {}

    def in_sigmas(move: Array, span: float) -> Array:
        return np.asarray(np.clip(move / (sigma * np.sqrt(span)), -10.0, 10.0))

    def log_ratio(one: Array, other: Array) -> Array:
        return np.asarray(np.clip(np.log(np.maximum(one, 1e-6) / np.maximum(other, 1e-6)), -3.0, 3.0))

    def position(bottom: Array, top: Array) -> Array:
        width, middle = top - bottom, 0.5 * (top + bottom)
        inside = np.where(width > 0, (close - middle) / np.where(width > 0, 0.5 * width, 1.0), 0.0)
        return np.asarray(np.clip(inside, -1.0, 1.0))

    for span in (1, 5, 20):
        out[f"return_{span}"] = in_sigmas(rolling(returns, span, add), span)
    for span in (3, 6, 12, 24, 48):
        weights = (1.0 - 2.0 / (span + 1.0)) ** np.arange(look_back - 1, -1, -1, dtype=np.float64)
        weights = weights / weights.sum()
        average = rolling(returns, look_back, lambda windows, w=weights: add(windows, w))
        out[f"momentum_{span}"] = in_sigmas(average, float(np.sum(weights**2)))
    out["volatility_5_20"], out["volatility_20_60"] = log_ratio(short, volatility), log_ratio(volatility, long)
    out["volatility"] = np.log(np.maximum(volatility * np.sqrt(bars_per_year), 1e-3) / 0.2)
    for span in (10, 50):
        out[f"mean_distance_{span}"] = in_sigmas(np.log(close / rolling(close, span, mean)), span)
    out["high_distance_60"] = in_sigmas(np.log(close / rolling(high, 60, lambda w: w.max(-1))), 60)
    out["low_distance_60"] = in_sigmas(np.log(close / rolling(low, 60, lambda w: w.min(-1))), 60)
    out["range_position_20"] = position(rolling(low, 20, lambda w: w.min(-1)), rolling(high, 20, lambda w: w.max(-1)))
    net, total = rolling(returns, 14, add), rolling(np.abs(returns), 14, add)
    out["rsi_14"] = np.clip(np.where(total > 0, net / np.where(total > 0, total, 1.0), 0.0), -1.0, 1.0)
    if "open" in columns:
        gap = np.full(len(close), np.nan)
        gap[1:] = np.log(bars["open"][1:] / close[:-1])
        out["gap"] = in_sigmas(gap, 1)
    if high is not close:
        out["bar_range"] = in_sigmas(np.log(high / low), 1)
        out["close_location"] = position(low, high)
    if "volume" in columns:
        usual = rolling(bars["volume"], 20, mean)
        slack = np.where(usual > 0, 0.01 * usual, 1.0)
        out["volume_20"] = np.log((bars["volume"] + slack) / (usual + slack))
    trend = rolling(returns, 60, add) / (np.maximum(long, 1e-6) * np.sqrt(60))
    trend = rolling(trend, 5, mean)
    out["regime_bear"] = (trend < -0.5).astype(np.float64)
    out["regime_bull"] = (trend > 0.5).astype(np.float64)
    out["regime_sideways"] = 1.0 - out["regime_bear"] - out["regime_bull"]
    return out


# ── account ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def flat_account(cash: float) -> Account:
    """An account without a position. Fields of the open trade are 0 while flat."""
    trade = dict.fromkeys(("shares", "paid", "entry_value", "entry_size", "entry_cash", "bars_held", "adds"), 0.0)
    return {"cash": cash, "peak": cash, "max_drawdown": 0.0, "last_action": "HOLD", "start_capital": cash, **trade}


def add_spend(account: Account, close: float, rules: dict[str, Any]) -> float:
    """Money that an ADD would spend, costs included; 0 where it is masked."""
    value = account["shares"] * close
    equity = account["cash"] + value
    room = min(account["entry_size"] * equity, rules["max_position"] * equity - value, account["cash"])
    open_ = (
        account["shares"] > 0
        and room >= 0.5 * min(rules["sizes"]) * (1.0 - TIES) * equity
        and account["adds"] < rules["max_adds"]
        and value >= account["paid"] * (1.0 - TIES)
    )
    return float(room) if open_ else 0.0


def valid_actions(account: Account, close: float, card: dict[str, Any]) -> list[bool]:
    """The mask, in the order of the card's actions."""
    long, more = account["shares"] > 0, add_spend(account, close, card["account"]) > 0
    limit = card["account"]["ruin"] * account["start_capital"] * (1.0 - TIES)
    if account["cash"] + account["shares"] * close < limit:  # ruined: nothing is bought any more
        return [action["name"] == ("SELL_ALL" if long else "HOLD") for action in card["actions"]]
    valid = {"HOLD": True, "SELL_HALF": long, "SELL_ALL": long, "ADD": more, **dict.fromkeys(BUYS, not long)}
    return [valid[action["name"]] for action in card["actions"]]


def account_fields(account: Account, close: float, card: dict[str, Any]) -> Array:
    """The account's part of the observation, in the order of the card, float32."""
    rules = card["account"]
    long = account["shares"] > 0
    value = account["shares"] * close
    equity = account["cash"] + value
    start = account["entry_cash"] if long else account["cash"]
    fields = [
        float(long),
        value / equity,
        (value - account["paid"]) / (account["paid"] if account["paid"] > 0 else 1.0),
        min(account["bars_held"] / rules["episode_bars"], 1.0),
        account["cash"] / equity,
        equity / start - 1.0,
        1.0 - equity / account["peak"],
        account["max_drawdown"],
        (account["cash"] + account["paid"]) / start - 1.0,
        max(1.0 - account["bars_held"] / rules["episode_bars"], 0.0),
        account["adds"] / max(rules["max_adds"], 1),
        add_spend(account, close, rules) / equity,
        *(float(action["name"] == account["last_action"]) for action in card["actions"]),
    ]
    return np.array(fields).astype(np.float32)


def order_of(action: str, account: Account, close: float, rules: dict[str, Any]) -> dict[str, Any] | None:
    """The order behind an action: shares to sell, or money to spend and about how many shares that buys."""
    if action == "HOLD":
        return None
    if action in ("SELL_HALF", "SELL_ALL"):
        return {"side": "sell", "quantity": account["shares"] * (0.5 if action == "SELL_HALF" else 1.0)}
    size = rules["sizes"][BUYS.index(action)] if action in BUYS else 0.0
    equity = account["cash"] + account["shares"] * close
    spend = add_spend(account, close, rules) if action == "ADD" else size * equity
    value = spend / ((1.0 + rules["slippage"]) * (1.0 + rules["commission"]))
    return {"side": "buy", "quantity": value / close, "spend": spend}


def step(account: Account, action: str, bars: Bars, t: int, rules: dict[str, Any]) -> tuple[Account, bool]:
    """Fill `action`, decided on bar t, and mark the account at the close of bar t + 1. The flag is True when ruined."""
    last, close = float(bars["close"][t]), float(bars["close"][t + 1])
    late = rules["fill"] == "next" and "open" not in bars
    opened = float(bars["open"][t + 1]) if "open" in bars else close
    high = float(bars["high"][t + 1]) if "high" in bars else max(opened, close)
    low = float(bars["low"][t + 1]) if "low" in bars else min(opened, close)
    fill = last if rules["fill"] == "close" else opened
    path = (opened if "open" in bars else min(max(last, low), high), high, low, close)
    keep = (1.0 - rules["slippage"]) * (1.0 - rules["commission"])
    before, new = account, {**account, "last_action": action}

    price = resting_exit(before, path, rules) if late else None  # a late order fills after the path of its bar
    decided = "HOLD" if price is not None else action
    order = order_of(decided, before, last, rules)
    if order is not None and order["side"] == "buy":
        spend = order["spend"]
        bought = spend / ((1.0 + rules["slippage"]) * (1.0 + rules["commission"]))
        new |= {"cash": before["cash"] - spend, "shares": before["shares"] + bought / fill}
        new |= {"paid": before["paid"] + spend, "entry_value": before["entry_value"] + bought}
        if decided == "ADD":
            new["adds"] = before["adds"] + 1.0
        else:
            new |= {"entry_size": rules["sizes"][BUYS.index(decided)], "entry_cash": before["cash"]}
    elif order is not None:
        share = 0.5 if decided == "SELL_HALF" else 1.0
        new["cash"] = before["cash"] + before["shares"] * share * fill * keep
        new |= {name: before[name] * (1.0 - share) for name in ("shares", "paid", "entry_value")}
    if not late:
        price = resting_exit(new, path, rules)
    new["bars_held"] += 0.0 if late and before["shares"] == 0 else 1.0

    value = new["shares"] * (close if price is None else price)
    marked = new["cash"] + (value if price is None else value * keep)
    ruined = marked < rules["ruin"] * new["start_capital"] * (1.0 - TIES)
    if price is not None or ruined:
        new |= {"cash": new["cash"] + value * keep, "shares": 0.0}
    equity = new["cash"] + new["shares"] * close
    if new["shares"] == 0:  # flat: the next trade starts afresh
        start = {"last_action": action, "start_capital": new["start_capital"]}
        return {**flat_account(new["cash"]), **start}, ruined
    new["peak"] = max(new["peak"], equity)
    new["max_drawdown"] = max(new["max_drawdown"], 1.0 - equity / new["peak"])
    return new, ruined


def resting_exit(account: Account, path: tuple[float, ...], rules: dict[str, Any]) -> float | None:
    """Price at which a stop, target or holding limit ends the position on a bar; None where it is kept."""
    if account["shares"] == 0:
        return None
    opened, high, low, close = path
    entry = account["entry_value"] / account["shares"]
    stop = None if rules["stop"] is None else entry * (1.0 - rules["stop"])
    target = None if rules["target"] is None else entry * (1.0 + rules["target"])
    if stop is not None and opened <= stop * (1.0 + TIES):
        return opened
    if target is not None and opened >= target * (1.0 - TIES):
        return opened
    if stop is not None and low <= stop * (1.0 + TIES):
        return float(stop)
    if target is not None and high >= target * (1.0 - TIES):
        return float(target)
    return close if rules["max_hold"] is not None and account["bars_held"] + 1 >= rules["max_hold"] else None


# ── decision ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Policy:
    """The network with its card: `decide(bars, table, t, account)`."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime as ort

        self.card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        self.network = ort.InferenceSession(folder / "network.onnx", providers=["CPUExecutionProvider"])

    def decide(self, bars: Bars, table: Array, t: int, account: Account) -> dict[str, Any]:
        """The decision at the close of bar t; `table` is `features(bars, card)`."""
        card, close = self.card, float(bars["close"][t])
        window, clip = card["observation"]["window"], card["observation"]["clip"]
        if t + 1 < window + card["features"]["look_back"]:
            needed = window + card["features"]["look_back"]
            raise SystemExit(f"bar {t + 1} of {len(table)}: a decision needs {needed} bars, its own among them")
        seen = np.concatenate([table[t - window + 1 : t + 1].reshape(-1), account_fields(account, close, card)])
        valid = np.array([valid_actions(account, close, card)])
        observation = np.clip(seen, -np.float32(clip), np.float32(clip))[None]
        logits, value = self.network.run(["logits", "value"], {"observation": observation, "mask": valid})
        names = [action["name"] for action in card["actions"]]
        action = names[self.choose(logits[0], bars["time"][t])]
        return {
            "time": bars["time"][t],
            "action": action,
            "order": order_of(action, account, close, card["account"]),
            "probabilities": dict(zip(names, np.exp(logits[0]).tolist(), strict=True)),
            "value": float(value[0]),
            "valid": dict(zip(names, valid[0].tolist(), strict=True)),
        }

    def choose(self, logits: Array, time: str) -> int:
        """The action by the card's `action_rule`. A draw picks the first whose cumulative probability exceeds it."""
        if self.card["action_rule"] == "greedy":
            return int(logits.argmax())
        chances = np.exp(logits.astype(np.float64))
        if self.card["action_rule"] == "sharpened":
            names = [action["name"].split("_")[0] for action in self.card["actions"]]
            sides = np.array([{"HOLD": 0, "BUY": 1, "ADD": 1, "SELL": 2}[name] for name in names])
            chances = chances * np.bincount(sides, chances)[sides] ** 4
        cumulative = np.cumsum(chances)
        key = f"{self.card['trained']['seed']}/{self.card['symbol']}/{microseconds(time)}"
        draw = int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big") / 2**48
        return int((cumulative <= draw * cumulative[-1]).sum())

    def walk(self, bars: Bars, first: int, last: int, cash: float) -> list[dict[str, Any]]:
        """One account from the close of bar `first` to the close of bar `last`, flat at the start."""
        table, account, days = features(bars, self.card), flat_account(cash), []
        for t in range(first, last):
            decision = self.decide(bars, table, t, account)
            account, ruined = step(account, decision["action"], bars, t, self.card["account"])
            equity = account["cash"] + account["shares"] * float(bars["close"][t + 1])
            days.append({"time": decision["time"], "action": decision["action"], "equity_at_next_close": equity})
            if ruined:
                break
        return days


def read_account(path: str | None, close: float, rules: dict[str, Any]) -> Account:
    """The account of a JSON file at the last close; without one, a flat account with the initial capital.

    Keys: `cash`; with shares also `shares`, `entry_price` (average fill price, without costs), `bars_held`, `adds`.
    What else is left out is derived, exactly for a trade that one order opened.
    """
    given = {"cash": rules["initial_capital"]} if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
    given = {key: value for key, value in given.items() if value is not None}
    entry = given.pop("entry_price", 0.0)
    if "cash" not in given or (given.get("shares", 0) > 0 and not entry and not given.get("entry_value")):
        raise SystemExit(f"{path}: needs cash, and with shares entry_price: their average fill price")
    account = flat_account(given["cash"])
    if unknown := sorted(set(given) - set(account)):
        raise SystemExit(f"{path}: unknown key {unknown[0]}; known are entry_price, {', '.join(account)}")
    account |= given
    if account["shares"] == 0:
        return {**account, "peak": account["cash"], "max_drawdown": 0.0}
    account["entry_value"] = given.get("entry_value", account["shares"] * entry)
    costs = (1.0 + rules["slippage"]) * (1.0 + rules["commission"])
    account["paid"] = given.get("paid", account["entry_value"] * costs)
    account["entry_cash"] = given.get("entry_cash", account["cash"] + account["paid"])
    one_order = account["paid"] / account["entry_cash"] / (1 + account["adds"])
    nearest = min(rules["sizes"], key=lambda size: abs(size - one_order))
    account["entry_size"] = given.get("entry_size", nearest)
    equity = account["cash"] + account["shares"] * close
    account["peak"] = given.get("peak", max(account["entry_cash"], equity))
    account["max_drawdown"] = max(account["max_drawdown"], 1.0 - equity / account["peak"])
    account["start_capital"] = given.get("start_capital", account["entry_cash"])
    return account


def lies_between(time: str, first: str | None, last: str | None) -> bool:
    """True for a time from `first` to `last`, each a day or a time, both included."""
    whole = time.replace(" ", "T") + ("T00:00:00" if len(time) == 10 else "")
    low, high = ((limit or "").replace(" ", "T") for limit in (first, last))
    return whole[: len(low)] >= low and (not high or whole[: len(high)] <= high)


def main() -> None:
    """Read the command line, and print the decision or the steps as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bars", help="CSV file of bars, oldest first")
    parser.add_argument("account", nargs="?", help="JSON file of the account")
    parser.add_argument("--from", dest="first", help="first day or time, on which a flat account begins")
    parser.add_argument("--to", dest="last", help="last day or time, at which it is only marked")
    args = parser.parse_args()
    policy = Policy(Path(__file__).parent)
    bars = read_bars(args.bars, policy.card)
    account = read_account(args.account, float(bars["close"][-1]), policy.card["account"])
    if args.first is None and args.last is None:
        print(json.dumps(policy.decide(bars, features(bars, policy.card), len(bars["time"]) - 1, account), indent=2))
        return
    days = [t for t, time in enumerate(bars["time"]) if lies_between(time, args.first, args.last)]
    if len(days) < 2:
        raise SystemExit(f"{args.bars}: fewer than two bars lie between --from and --to")
    for day in policy.walk(bars, days[0], days[-1], account["cash"]):
        print(json.dumps(day))


if __name__ == "__main__":
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # as in `python policy.py bars.csv | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
