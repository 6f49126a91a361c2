"""Wishes that p3kit does not grant: each with the reason, and the nearest thing that it does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Wish:
    """Something that other trading or RL tools offer."""

    name: str
    because: str
    nearest: str
    words: tuple[str, ...]
    """Parts of keys and values that mean it, in lower case."""

    @property
    def answer(self) -> str:
        """The sentence of an error message."""
        return f"{self.name}: not offered, because {self.because}; nearest: {self.nearest}"


NOT_OFFERED = (
    Wish(
        "short selling",
        "the seven actions buy, add and sell what is held, and borrowing costs are not modelled",
        "stay flat; buy-and-hold and an all-HOLD account are beside every result",
        ("short", "shorting", "short_selling", "allow_short", "long_short", "enable_short"),
    ),
    Wish(
        "leverage",
        "an account buys with its own cash, so that ruin has one meaning and no margin call is left out",
        "env.max_position and env.sizes, up to the whole equity",
        ("leverage", "margin", "max_leverage"),
    ),
    Wish(
        "one agent for a portfolio of several assets",
        "an agent trades one symbol, so that results are judged per symbol with intervals",
        "ten symbols in one spec; the weekly report shows them as one account of equal parts",
        ("portfolio", "allocation", "multi_asset", "portfolio_weights"),
    ),
    Wish(
        "a recurrent policy (LSTM, GRU)",
        "the window of bars is the memory, and stored states would break bit-equal resume and replay",
        'env.window, or trainer = "ppo_shared", whose encoder is a transformer over the window',
        ("lstm", "gru", "rnn", "recurrent", "use_lstm", "recurrent_ppo", "ppo_lstm", "hidden_state"),
    ),
    Wish(
        "continuous actions",
        "the training guide's agent has seven discrete actions, and masks exist for those only",
        "env.sizes sets the sizes of BUY_SMALL, BUY_MEDIUM and BUY_LARGE",
        ("continuous", "continuous_actions", "action_space", "action_type", "discrete_actions"),
    ),
    Wish(
        "live orders at a broker",
        "an error there costs money, and p3kit has no account at any broker",
        "p3kit predict prints today's order, and p3kit paper keeps a paper account",
        ("broker", "live", "live_trading", "exchange", "alpaca", "ibkr", "api_key", "paper_trading"),
    ),
)


def not_offered(word: str) -> str:
    """The answer to a key or value that means one of the wishes; "" for any other."""
    meant = word.lower().replace("-", "_")
    return next((wish.answer for wish in NOT_OFFERED if meant in wish.words), "")
