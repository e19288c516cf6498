//! Laws: any cut, any level, any neighbour, any grouping of configurations: the same bits.

mod common;

use _rust::arch::Level;
use common::{Run, Settings, same, walk};

fn settings() -> Vec<Settings> {
    let base = Settings::default();
    vec![
        base.clone(),
        Settings { pine: true, ..base.clone() },
        Settings { l0: [9, 10, 11, 12, 13, 14], robustness: 2, cutout: 40, ..base.clone() },
        Settings { l0: [40, 33, 27, 28, 8, 70], robustness: 0, decay: 2.0, growth: 0.01, ..base.clone() },
        Settings { l0: [9; 6], cutout: 3, decay: 100.0, ..base.clone() },
        Settings { growth: 0.4, decay: 0.0, ..base },
    ]
}

/// Prices with flat stretches, gaps, a symbol without any bar and one that begins late.
fn prices(symbols: usize, bars: usize) -> Vec<f64> {
    let mut close = walk(symbols, bars, 7);
    for (symbol, row) in close.chunks_exact_mut(bars).enumerate() {
        match symbol % 5 {
            1 => row[bars / 3..bars / 2].fill(100.25),
            2 => row.iter_mut().skip(symbol).step_by(3).for_each(|c| *c = f64::NAN),
            3 => row[..bars / 4].fill(f64::NAN),
            4 if symbol == 4 => row.fill(f64::NAN),
            _ => {}
        }
    }
    close
}

#[test]
fn every_level_gives_the_same_bits() {
    let close = prices(19, 700);
    for settings in settings() {
        let portable = Run::whole(std::slice::from_ref(&settings), 19, &close, Level::Portable, true);
        for level in Level::ALL.into_iter().filter(|level| level.available()) {
            let run = Run::whole(std::slice::from_ref(&settings), 19, &close, level, true);
            same(&run, &portable);
        }
    }
}

#[test]
fn asking_for_the_signal_alone_changes_nothing() {
    let close = prices(9, 900);
    for settings in settings() {
        for level in Level::ALL.into_iter().filter(|level| level.available()) {
            let all = Run::whole(std::slice::from_ref(&settings), 9, &close, level, true);
            let alone = Run::whole(std::slice::from_ref(&settings), 9, &close, level, false);
            same(&Run { others: vec![], ..all }, &alone);
        }
    }
}

#[test]
fn cut_anywhere_is_uncut() {
    let (symbols, bars) = (11, 500);
    let close = prices(symbols, bars);
    for settings in settings() {
        for level in Level::ALL.into_iter().filter(|level| level.available()) {
            let of = std::slice::from_ref(&settings);
            let whole = Run::whole(of, symbols, &close, level, true);
            for pieces in [vec![1; bars], vec![250, 0, 1, 249], vec![64, 64, 372], vec![499, 1]] {
                same(&Run::pieces(of, symbols, &close, &pieces, level, true), &whole);
            }
        }
    }
}

#[test]
fn neighbours_do_not_matter() {
    let (symbols, bars) = (13, 600);
    let close = prices(symbols, bars);
    let of = [Settings { cutout: 50, ..Settings::default() }];
    for level in Level::ALL.into_iter().filter(|level| level.available()) {
        let together = Run::whole(&of, symbols, &close, level, false);
        for (symbol, row) in close.chunks_exact(bars).enumerate() {
            let alone = Run::whole(&of, 1, row, level, false);
            let signal = &together.signal[symbol * bars..][..bars];
            assert!(
                signal
                    .iter()
                    .zip(&alone.signal)
                    .all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan())
            );
        }
    }
}

#[test]
fn members_of_a_stream_do_not_matter_to_each_other() {
    let close = prices(8, 400);
    let mut members: Vec<Settings> = [0.0, 0.03, 1.5]
        .into_iter()
        .map(|decay| Settings { decay, cutout: (decay * 20.0) as i64, ..Settings::default() })
        .collect();
    let weights = [2.0, 0.5, 1.0, 7.0, 0.3, 1.0];
    members.push(Settings { weights, ..members[1].clone() }); // shares the second's layer 1
    for level in Level::ALL.into_iter().filter(|level| level.available()) {
        let together = Run::whole(&members, 8, &close, level, false);
        for (m, member) in members.iter().enumerate() {
            let alone = Run::whole(std::slice::from_ref(member), 8, &close, level, false);
            let size = alone.signal.len();
            let pairs = together.signal[m * size..][..size].iter().zip(&alone.signal);
            assert!(pairs.into_iter().all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()));
        }
    }
}

#[test]
fn scaling_by_a_power_of_two_changes_no_signal() {
    let close = walk(8, 800, 3);
    let scaled: Vec<f64> = close.iter().map(|c| c * 1024.0).collect();
    let of = [Settings::default()];
    let (a, b) = (
        Run::whole(&of, 8, &close, Level::Portable, false),
        Run::whole(&of, 8, &scaled, Level::Portable, false),
    );
    assert!(
        a.signal.iter().zip(&b.signal).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan())
    );
}
