"""The reference against cases worked by hand, paragraph by paragraph of the specification."""

from __future__ import annotations

import hashlib
import math
from decimal import Decimal, getcontext

import numpy as np
import pytest

from atc_backtest import reference
from atc_backtest.config import AtcConfig, PerFamily
from atc_backtest.growth import growth

NAN = math.nan
RAMP = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])


def expect(got: np.ndarray, want: list[float]) -> None:
    np.testing.assert_allclose(got, want, rtol=1e-15, atol=0, equal_nan=True)


def test_sma_is_the_mean_of_the_last_values() -> None:
    expect(reference.sma(RAMP, 3), [NAN, NAN, 2, 3, 4, 5])


def test_wma_weighs_the_newest_most() -> None:
    expect(reference.wma(RAMP, 3), [NAN, NAN, (3 * 3 + 2 * 2 + 1) / 6, (12 + 6 + 2) / 6, (15 + 8 + 3) / 6, 32 / 6])


def test_ema_is_seeded_with_the_sma_or_with_the_first_value() -> None:
    expect(reference.ema(RAMP, 3, "enhance"), [NAN, NAN, 2, 3, 4, 5])
    expect(reference.ema(RAMP, 3, "pine"), [1, 1.5, 2.25, 3.125, 4.0625, 5.03125])


def test_dema_is_twice_the_ema_less_the_ema_of_the_ema() -> None:
    # E1 = 2, 3, 4, 5 from t = 2; E2 = 2, 2.5, 3.25, 4.125
    expect(reference.dema(RAMP, 3, "enhance"), [NAN, NAN, 2, 3.5, 4.75, 5.875])
    # E1 = 1, 1.5, 2.25, ..; E2 = 1, 1.25, 1.75, ..
    expect(reference.dema(RAMP, 3, "pine")[:3], [1, 1.75, 2.75])


def test_hma_smooths_the_difference_of_two_wmas_or_is_the_sma() -> None:
    # L = 4: h = 2, w = 2. On a ramp WMA_2 lags 1/3 and WMA_4 lags 1, so y = x + 1/3, known from t = 3;
    # WMA_2 of y lags 1/3 again: HMA = x, from t = 4.
    expect(reference.hma(RAMP, 4, "enhance"), [NAN, NAN, NAN, NAN, 5, 6])
    expect(reference.hma(RAMP, 4, "pine"), [NAN, NAN, NAN, 2.5, 3.5, 4.5])


def test_lsma_is_the_end_of_the_least_squares_line() -> None:
    x = np.array([3.0, 1.0, 4.0, 1.0, 5.0])
    slope, intercept = np.polyfit([0, 1, 2], x[2:], 1)
    expect(reference.lsma(RAMP, 3, "pine")[2:], [3, 4, 5, 6])
    assert reference.lsma(x, 3, "enhance")[-1] == pytest.approx(intercept + 2 * slope, rel=1e-14)


def test_kama_follows_fast_in_a_trend_and_hardly_in_noise() -> None:
    x = np.array([10.0, 11.0, 10.0, 12.0])
    # t = 2: |10-10| / 2 = 0, s = 0.064**2, x = K: stays. t = 3: |12-11| / 3.
    s = ((0.666 - 0.064) / 3 + 0.064) ** 2
    expect(reference.kama(x, 2, "enhance"), [10, 10, 10, 10 + s * 2])
    first = 0.064**2 * 10
    expect(reference.kama(x, 2, "pine"), [NAN, NAN, first, first + s * (12 - first)])
    flat = np.full(5, 7.0)
    expect(reference.kama(flat, 2, "enhance"), [7] * 5)  # no noise: ratio 0, not 0/0


def test_signal_starts_at_the_crossing_and_keeps_its_value() -> None:
    close = np.full(8, 100.0)
    average = np.array([NAN, 99.0, 99.0, 100.0, 99.0, 101.0, 100.0, 100.0])
    # t=1: no average one bar before. t=2: above then and now. t=3: equal. t=4: above, was equal: +1.
    expect(reference.crossing_signal(average, close), [0, 0, 0, 0, 1, -1, -1, -1])


def test_the_band_counts_as_equal() -> None:
    close = np.full(4, 100.0)
    average = np.array([101.0, 100 * (1 - 1e-13), 99.0, 100 * (1 + 1e-13)])
    expect(reference.crossing_signal(average, close), [0, 0, 1, 1])


def test_equity_follows_the_sign_one_bar_before() -> None:
    config = AtcConfig(decay=50.0, lambda_=1000.0 * math.log(2), growth_horizon=1, cutout=1)
    close = np.array([1.0, 100.0, 110.0, 99.0, 99.0])
    factors = reference.bar_factors(close, config)
    signal = np.array([0.0, 1.0, -1.0, 0.0, 1.0])
    # From bar 1 with 8. g = 2 at bar 2 and, the horizon being 1, at every later one. d = 0.5.
    # bar 2: long,  +10 % * 2 -> 8 * 0.5 * 1.2 = 4.8; bar 3: short, -10 % * 2 -> 4.8 * 0.5 * 1.2 = 2.88;
    # bar 4: flat -> 2.88 * 0.5 = 1.44
    got = reference.equity(signal, factors, config.cutout, 8.0)
    np.testing.assert_allclose(got, [NAN, 8, 4.8, 2.88, 1.44], rtol=1e-12)


def test_equity_is_limited_on_both_sides() -> None:
    assert reference.limited(0.1) == 0.25
    assert reference.limited(1e151) == 1e150
    assert reference.limited(math.nan) == 0.25
    assert reference.limited(-math.inf) == 0.25


def test_layer1_is_the_weighted_signal_in_hundredths_ties_to_even() -> None:
    signals = np.array([[1.0], [-1.0], [0.0]])
    assert reference.layer1(signals, np.array([[2.0], [1.0], [1.0]]))[0] == 0.25
    # 0.125 = 12.5 hundredths exactly: to the even 12, not to 13.
    assert reference.layer1(signals, np.array([[1.5], [1.0], [1.5]]))[0] == 0.12


def test_layer2_counts_votes_by_their_equity() -> None:
    s = np.array([[0.5], [0.11], [0.1], [-0.1], [-0.11], [0.0]])
    equities = np.array([[4.0], [2.0], [1.0], [1.0], [1.0], [1.0]])
    # The thresholds themselves do not vote: 4 + 2 - 1 of 10.
    assert reference.layer2(s, equities, AtcConfig())[0] == 0.5
    # pine: only S beyond 0.49 counts, whatever the entry levels.
    assert reference.layer2(s, equities, AtcConfig(profile="pine"))[0] == 0.4


def test_flat_prices_never_signal_and_equities_only_decay() -> None:
    config = AtcConfig(lengths=PerFamily(8, 8, 8, 8, 8, 8), decay=1.0)
    result = reference.atc(np.full(40, 123.45), config)
    assert not result.sign.any()
    assert (result.signal == 0).all()
    np.testing.assert_allclose(result.equity1[0, 0], np.maximum(0.99 ** np.arange(40), 0.25), rtol=1e-13)


@pytest.mark.parametrize("profile", ["enhance", "pine"])
def test_a_step_after_a_flat_stretch_turns_every_average(profile: str) -> None:
    close = np.full(80, 100.0)
    close[60:] = 110.0
    result = reference.atc(close, AtcConfig(profile=profile))
    assert (result.signal[:60] == 0).all()
    if profile == "enhance":
        assert (result.sign[..., 60] == 1).all()
        assert result.signal[60] == 1.0
    else:  # pine's KAMA starts from 0: it lies below a flat price from its first bar and crosses nothing
        assert (result.sign[:5, :, 60] == 1).all()
        assert (result.sign[5, :, 60] == 0).all()
        weights = result.equity2[:, 60]
        assert result.signal[60] == weights[:5].sum() / weights.sum()


def test_missing_bars_are_no_bars() -> None:
    close = np.round(100 + np.cumsum(np.random.default_rng(1).normal(0, 1, 300)), 2)
    holes = close.copy()
    missing = np.random.default_rng(2).random(300) < 0.3
    holes[missing] = np.nan
    spread, packed = reference.atc(holes, AtcConfig()), reference.atc(close[~missing], AtcConfig())
    for name, values in vars(spread).items():
        assert np.isnan(values[..., missing]).all(), name
        assert np.array_equal(values[..., ~missing], getattr(packed, name), equal_nan=True), name


def test_nothing_is_known_before_the_cutout() -> None:
    close = np.round(100 + np.cumsum(np.random.default_rng(3).normal(0, 1, 120)), 2)
    result = reference.atc(close, AtcConfig(cutout=50))
    assert np.isnan(result.signal[:50]).all()
    assert not np.isnan(result.signal[50:]).any()
    assert (result.equity1[..., 50] == 1).all()
    assert np.array_equal(result.sign, reference.atc(close, AtcConfig()).sign, equal_nan=True)


def test_growth_is_rounded_once_and_stops_at_its_horizon() -> None:
    getcontext().prec = 40
    table = growth(0.02, 50_000, 0, 60_000)
    for k in (1, 7, 333, 49_999, 50_000):
        assert Decimal(0.02 / 1000 * k).exp() == pytest.approx(Decimal(table[k]), rel=Decimal("1.2e-16"))
    assert (table[50_000:] == table[50_000]).all()
    assert growth(0.02, None, 59_999, 60_000)[0] == growth(0.02, None, 0, 60_000)[-1] > table[-1]
    assert np.array_equal(growth(0.02, 50_000, 100, 200), table[100:200])
    assert growth(-3.0, None, 10**9, 10**9 + 1)[0] > 0
    assert np.isfinite(growth(3.0, None, 10**9, 10**9 + 1)[0])


def test_growth_has_the_same_bits_on_every_machine() -> None:
    digest = hashlib.sha256()
    for lambda_ in (0.0, 0.02, 13.0, -3.0, 1e-9, -700.0, 5e4):
        for horizon in (50_000, None, 7):
            for start, stop in ((0, 20_000), (49_990, 50_010), (10**9, 10**9 + 3)):
                digest.update(growth(lambda_, horizon, start, stop).tobytes())
    assert (
        digest.hexdigest() == "63b0bf60b9d9ec45ce40727957fc831ca8880b5e990c88f8abc66f7716dbd97e"
    )  # of NumPy's arrays, before it was compiled


def test_growth_equals_correctly_rounded_exp_everywhere_tried() -> None:
    getcontext().prec = 40
    ks = np.random.default_rng(0).integers(0, 50_000, 500)
    table = growth(13.0, 50_000, 0, 50_001)
    for k in ks.tolist():
        assert float(Decimal(13.0 / 1000 * k).exp()) == table[k]
