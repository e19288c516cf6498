//! Cases small enough to work out by hand.

mod common;

use _rust::advance::{Advance, Outputs, Prices, StreamJob};
use _rust::arch::Level;
use _rust::stream::{EMA, HMA, KAMA, LENGTHS, LSMA, WMA};
use common::{Run, Settings};

const LAYER1: usize = 0;
const EQUITY2: usize = 1;
const AVERAGE: usize = 2;
const SIGN: usize = 3;
const EQUITY1: usize = 4;

fn run(of: Settings, close: &[f64]) -> Run {
    let runs: Vec<Run> = Level::ALL
        .into_iter()
        .filter(|level| level.available())
        .map(|level| Run::whole(std::slice::from_ref(&of), 1, close, level, true))
        .collect();
    runs.iter().for_each(|other| common::same(other, &runs[0]));
    runs.into_iter().next().unwrap()
}

#[test]
fn averages_of_a_straight_line() {
    // x = 1, 2, 3, ..: at bar t the SMA of length L is x - (L-1)/2, the WMA x - (L-1)/3, LSMA and HMA follow it.
    let close: Vec<f64> = (1..=80).map(f64::from).collect();
    let result = run(Settings { l0: [12; 6], ..Settings::default() }, &close);
    let near = |family: usize, bar: usize, expected: f64| {
        let found = result.other(AVERAGE, 0, family * LENGTHS, bar);
        assert!(
            (found - expected).abs() < 1e-12 * expected.abs(),
            "{family} at {bar}: {found}, not {expected}"
        );
    };
    near(WMA, 40, 41.0 - 11.0 / 3.0);
    near(LSMA, 40, 41.0);
    // HMA of a line: 2*WMA_6 - WMA_12 lags 2*5/3 - 11/3 = -1/3, the WMA_3 of it 2/3 more.
    near(HMA, 40, 41.0 + 1.0 / 3.0 - 2.0 / 3.0);
    // The EMA starts as the SMA, whose lag (L-1)/2 is the EMA's own.
    near(EMA, 11, 6.5);
    near(EMA, 40, 41.0 - 5.5);
    assert!(result.other(AVERAGE, 0, EMA * LENGTHS, 10).is_nan());
    // On a line all movement is progress: the ratio is 1 and the speed 0.666 squared.
    let k = |bar| result.other(AVERAGE, 0, KAMA * LENGTHS, bar);
    assert_eq!((k(0), k(11)), (1.0, 1.0));
    let speed = (0.666_f64 - 0.064 + 0.064) * (0.666 - 0.064 + 0.064);
    assert!((k(12) - (1.0 + speed * 12.0)).abs() < 1e-12);
}

#[test]
fn an_average_that_is_never_crossed_signals_nothing() {
    // Rising from the start, the close is above every lagging average from its first bar on: no crossing.
    let close: Vec<f64> = (0..200).map(|t| 100.0 + f64::from(t)).collect();
    let result = run(Settings::default(), &close);
    for family in [EMA, WMA] {
        for j in 0..LENGTHS {
            assert!((0..200).all(|bar| result.other(SIGN, 0, family * LENGTHS + j, bar) == 0.0));
            // Flat: only the decay works, d a bar from 1.
            let d = 1.0 - 0.03 / 100.0;
            let e = (0..150).fold(1.0, |e, _| e * d);
            assert_eq!(result.other(EQUITY1, 0, family * LENGTHS + j, 150), e);
        }
        assert_eq!(result.other(LAYER1, 0, family, 150), 0.0);
    }
}

#[test]
fn a_fall_through_an_average_turns_it_short_and_earns() {
    let mut close: Vec<f64> = vec![100.0; 120];
    close[60] = 90.0;
    close[61..].fill(81.0);
    let settings = Settings { growth: 0.0, decay: 0.0, ..Settings::default() };
    let result = run(settings, &close);
    let e = |bar| result.other(EQUITY1, 0, EMA * LENGTHS, bar);
    let s = |bar| result.other(SIGN, 0, EMA * LENGTHS, bar);
    assert_eq!((s(59), s(60), s(61)), (0.0, -1.0, -1.0));
    // Short from bar 60: the fall from 90 to 81 pays a tenth; the fall into bar 60 came too early.
    assert_eq!((e(59), e(60), e(61), e(62)), (1.0, 1.0, 1.0 + 0.1, 1.0 + 0.1));
    // All nine short: S = -1, and the family votes -1.
    assert_eq!(result.other(LAYER1, 0, EMA, 61), -1.0);
    assert_eq!(result.other(EQUITY2, 0, EMA, 61), 1.0 + 0.1);
    assert_eq!(result.signal[61], -1.0);
}

#[test]
fn equities_start_at_the_cutout() {
    let close = common::walk(1, 90, 5);
    let result = run(Settings { cutout: 30, ..Settings::default() }, &close);
    assert!(result.signal[..30].iter().all(|a| a.is_nan()));
    assert!(result.other(EQUITY1, 0, 0, 29).is_nan());
    assert_eq!(result.other(EQUITY1, 0, 0, 30), 1.0);
    assert_eq!(result.other(EQUITY2, 0, WMA, 30), 2.0);
    assert!(result.signal[30..].iter().all(|a| (-1.0..=1.0).contains(a)));
}

#[test]
fn equities_stay_within_floor_and_ceiling() {
    let mut close = common::walk(1, 900, 11);
    let wild = Settings { growth: 0.5, decay: 0.0, ..Settings::default() };
    close[450] *= 1.5;
    let result = run(wild, &close);
    assert!(result.others[EQUITY1].iter().all(|&e| (0.25..=1e150).contains(&e)));
    assert!(result.others[EQUITY1].contains(&1e150) && result.others[EQUITY1].contains(&0.25));
    assert!(result.signal.iter().all(|a| (-1.0..=1.0).contains(a)));
}

#[test]
fn missing_bars_are_no_bars() {
    let dense = common::walk(1, 300, 2);
    let sparse: Vec<f64> = dense.iter().flat_map(|&c| [c, f64::NAN, f64::NAN]).collect();
    let (a, b) = (run(Settings::default(), &dense), run(Settings::default(), &sparse));
    assert_eq!((a.bars, a.values, a.equities), (b.bars, b.values, b.equities));
    for (bar, value) in b.signal.iter().enumerate() {
        assert!(if bar % 3 == 0 { *value == a.signal[bar / 3] } else { value.is_nan() });
    }
}

#[test]
fn no_bars_change_nothing() {
    let result = run(Settings::default(), &[f64::NAN; 5]);
    assert_eq!(result.bars, [0]);
    assert!(result.values.iter().all(|&v| v == 0.0) && result.equities.iter().all(|e| e.is_nan()));
    assert!(result.signal.iter().chain(result.others.iter().flatten()).all(|v| v.is_nan()));
}

#[test]
fn shapes_that_do_not_fit_are_refused_before_anything_is_done() {
    let stream = Settings::default().stream();
    let (mut values, mut bars, mut equities) = (vec![0.0; stream.width()], vec![0; 1], vec![0.0; 5]);
    let call = Advance {
        prices: Prices { close: &[1.0], source: &[1.0], n_symbols: 1, n_bars: 1 },
        streams: vec![StreamJob { stream: &stream, members: vec![], values: &mut values }],
        bars: &mut bars,
        equities: &mut equities,
        outputs: Outputs::none(1),
    };
    let message = call.run(Level::Portable).unwrap_err();
    assert!(message.contains("equities has 5 values") && message.contains("66"), "{message}");
    assert_eq!(bars, [0]);
}

#[test]
fn a_level_is_found_by_name_or_refused() {
    assert_eq!(Level::from_name("portable"), Ok(Level::Portable));
    assert!(Level::from_name("auto").unwrap().available());
    assert!(Level::from_name("sse9").unwrap_err().contains("\"sse9\""));
}
