"""What a home uses, makes and stores, in whole watt-hours. Pure: no clock, no network, no threads."""

import datetime as dt
from dataclasses import dataclass, field
from typing import Final

from local_market.community.household import Household
from local_market.community.profiles import QUARTER_HOUR_S, Profiles

MILLIJOULES_PER_WH: Final = 3_600_000


@dataclass(slots=True, kw_only=True)
class EnergyBooks:
    """One home's energy, in watt-hours since the start; `battery` starts half full.

    Always: start + sun + bought + imported = used + sold + exported + stored + credit.
    `credit` is energy bought and delivered that the home has not used yet (its account with the street).
    """

    household: Household
    profiles: Profiles
    at: dt.datetime
    own_wh: int = 0
    sellable_wh: int = 0
    held_wh: int = 0  # offered or promised; the home's own use leaves it alone
    credit_wh: int = 0
    start_wh: int = 0
    used_wh: int = 0
    sun_wh: int = 0
    bought_wh: int = 0
    sold_wh: int = 0
    imported_wh: int = 0
    exported_wh: int = 0
    power_w: int = 0
    _load_rest_mj: int = 0
    _sun_rest_mj: int = 0
    _capacity_wh: int = field(init=False)

    def __post_init__(self) -> None:
        """Begin with the reserve full and the rest of the battery half full."""
        self._capacity_wh = self.household.battery_wh - self.household.reserve_wh
        self.own_wh = self.household.reserve_wh
        self.sellable_wh = self._capacity_wh // 2
        self.start_wh = self.own_wh + self.sellable_wh

    def advance(self, to: dt.datetime) -> None:
        """Let time pass until `to`: the sun shines, the home uses; quarter hour by quarter hour."""
        while self.at < to:
            into_quarter_s = (self.at.minute * 60 + self.at.second) % QUARTER_HOUR_S
            step_s = min(QUARTER_HOUR_S - into_quarter_s, int((to - self.at).total_seconds()))
            if step_s <= 0:
                return  # less than a second: it counts with the next call
            load_mw = self.profiles.load_mw(self.household.annual_kwh, self.at)
            sun_mw = self.profiles.sun_mw(self.household.peak_w, self.household.orientation, self.at)
            used_wh, self._load_rest_mj = divmod(self._load_rest_mj + load_mw * step_s, MILLIJOULES_PER_WH)
            sun_wh, self._sun_rest_mj = divmod(self._sun_rest_mj + sun_mw * step_s, MILLIJOULES_PER_WH)
            self.power_w = load_mw // 1000
            self.used_wh += used_wh
            self.sun_wh += sun_wh
            self._balance(sun_wh - used_wh)
            self.at += dt.timedelta(seconds=step_s)

    def _balance(self, surplus_wh: int) -> None:
        if surplus_wh >= 0:
            own = min(surplus_wh, self.household.reserve_wh - self.own_wh)
            sellable = min(surplus_wh - own, self._capacity_wh - self.sellable_wh)
            self.own_wh += own
            self.sellable_wh += sellable
            self.exported_wh += surplus_wh - own - sellable
            return
        missing_wh = -surplus_wh
        for account in ("credit_wh", "own_wh"):
            taken = min(missing_wh, getattr(self, account))
            setattr(self, account, getattr(self, account) - taken)
            missing_wh -= taken
        unheld = min(missing_wh, max(0, self.sellable_wh - self.held_wh))
        self.sellable_wh -= unheld
        self.imported_wh += missing_wh - unheld

    def deliver(self, energy_wh: int) -> int:
        """Give away up to `energy_wh` of the sellable account; the watt-hours that really left the battery."""
        given_wh = min(energy_wh, self.sellable_wh)
        self.sellable_wh -= given_wh
        self.sold_wh += given_wh
        return given_wh

    def receive(self, energy_wh: int) -> None:
        """Take in energy that a neighbour delivered."""
        self.bought_wh += energy_wh
        self.credit_wh += energy_wh

    def unbalanced_wh(self) -> int:
        """What the books cannot explain; 0 unless there is a mistake."""
        came = self.start_wh + self.sun_wh + self.bought_wh + self.imported_wh
        went = self.used_wh + self.sold_wh + self.exported_wh
        return came - went - self.own_wh - self.sellable_wh - self.credit_wh

    @property
    def battery_percent(self) -> int:
        """How full the battery is, in percent; 0 for a home without one."""
        if not self.household.battery_wh:
            return 0
        return 100 * (self.own_wh + self.sellable_wh) // self.household.battery_wh

    def need_wh(self, ahead: dt.timedelta) -> int:
        """What will be missing over the time ahead, by the profiles, after sun, credit and battery."""
        deficit_mj = 0
        quarter = dt.timedelta(seconds=QUARTER_HOUR_S)
        for number in range(max(1, int(ahead / quarter))):
            at = self.at + number * quarter
            load_mw = self.profiles.load_mw(self.household.annual_kwh, at)
            sun_mw = self.profiles.sun_mw(self.household.peak_w, self.household.orientation, at)
            deficit_mj += max(0, load_mw - sun_mw) * QUARTER_HOUR_S
        stored_wh = self.credit_wh + self.own_wh + max(0, self.sellable_wh - self.held_wh)
        return max(0, deficit_mj // MILLIJOULES_PER_WH - stored_wh)
