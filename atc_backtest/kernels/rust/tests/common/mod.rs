//! Settings lowered as the Python side lowers them, and runs over prices in one or more pieces.
#![allow(dead_code)] // each test file uses its part

use _rust::advance::{Advance, Outputs, Prices, StreamJob};
use _rust::arch::Level;
use _rust::stream::{AVERAGES, EQUITY_SLOTS, FAMILIES, HMA, KAMA, LENGTHS, Member, OFFSETS, Stream, Table};

#[derive(Clone, Debug)]
pub struct Settings {
    pub l0: [usize; FAMILIES],
    pub robustness: usize,
    pub pine: bool,
    pub cutout: i64,
    pub decay: f64,
    /// lambda / 1000.
    pub growth: f64,
    pub weights: [f64; FAMILIES],
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            l0: [28; FAMILIES],
            robustness: 1,
            pine: false,
            cutout: 0,
            decay: 0.03,
            growth: 0.00002,
            weights: [1.0, 1.0, 2.0, 1.0, 0.5, 1.0],
        }
    }
}

fn triangle(n: usize) -> f64 {
    (n * (n + 1) / 2) as f64
}

impl Settings {
    pub fn stream(&self) -> Stream {
        let o = OFFSETS[self.robustness];
        let lengths = self
            .l0
            .map(|l| [l, l + o[0], l + o[1], l + o[2], l + o[3], l - o[0], l - o[1], l - o[2], l - o[3]]);
        let by = |f: fn(usize) -> f64| lengths.map(|nine| nine.map(f));
        let smooth = lengths[HMA].map(|l| if self.pine { 1 } else { l.isqrt() });
        let half = lengths[HMA].map(|l| l / 2);
        let mut first: Table<f64> = by(|l| (l - 1) as f64);
        if self.pine {
            first[0] = [0.0; LENGTHS];
            first[3] = [0.0; LENGTHS];
            first[KAMA] = lengths[KAMA].map(|l| l as f64);
        } else {
            first[KAMA] = [0.0; LENGTHS];
            for j in 0..LENGTHS {
                first[HMA][j] += (smooth[j] - 1) as f64;
            }
        }
        Stream {
            lengths,
            first,
            pine: self.pine,
            history: lengths.into_iter().flatten().max().unwrap(),
            smooth,
            alpha: by(|l| 2.0 / (l + 1) as f64),
            sma: by(|l| 1.0 / l as f64),
            wma: by(|l| 1.0 / triangle(l)),
            lsma_w: by(|l| 3.0 / triangle(l)),
            lsma_s: by(|l| 2.0 / l as f64),
            half,
            hma_half: half.map(|h| 2.0 / triangle(h)),
            hma_smooth: smooth.map(|w| 1.0 / triangle(w)),
        }
    }

    fn member<'a>(&self, config: usize, layer1: usize, growth: &'a [f64]) -> Member<'a> {
        let (up, down) = if self.pine { (49.0, -49.0) } else { (10.0, -10.0) };
        Member {
            config,
            layer1,
            cutout: self.cutout,
            keep: 1.0 - self.decay / 100.0,
            weights: self.weights,
            up,
            down,
            growth_start: 0,
            growth: growth.into(),
        }
    }
}

impl Settings {
    /// Which distinct layer 1 each has, numbered as they first come.
    fn layers(of: &[Settings]) -> Vec<usize> {
        let mut distinct: Vec<(f64, f64, i64)> = Vec::new();
        let number = |s: &Settings| {
            let key = (s.growth, s.decay, s.cutout);
            distinct.iter().position(|&other| other == key).unwrap_or_else(|| {
                distinct.push(key);
                distinct.len() - 1
            })
        };
        of.iter().map(number).collect()
    }
}

/// What a run leaves: final state and outputs.
#[derive(Debug)]
pub struct Run {
    pub bars: Vec<i64>,
    pub values: Vec<f64>,
    pub equities: Vec<f64>,
    pub signal: Vec<f64>,
    /// layer1, equity2, average, sign, equity1; nothing where only the signal was asked for.
    pub others: Vec<Vec<f64>>,
}

impl Run {
    pub fn whole(of: &[Settings], symbols: usize, close: &[f64], level: Level, all: bool) -> Run {
        Self::pieces(of, symbols, close, &[close.len() / symbols], level, all)
    }

    /// All of `of` share the stream of the first.
    pub fn pieces(
        of: &[Settings],
        symbols: usize,
        close: &[f64],
        pieces: &[usize],
        level: Level,
        all: bool,
    ) -> Run {
        let (n, stream) = (close.len() / symbols, of[0].stream());
        assert_eq!(pieces.iter().sum::<usize>(), n);
        let growth: Vec<Vec<f64>> =
            of.iter().map(|s| (0..n.max(1)).map(|k| (s.growth * k as f64).exp()).collect()).collect();
        let layer1 = Settings::layers(of);
        let kinds = if all { Outputs::VALUES.len() } else { 1 };
        let mut run = Run {
            bars: vec![0; symbols],
            values: vec![0.0; stream.width() * symbols],
            equities: vec![f64::NAN; of.len() * EQUITY_SLOTS * symbols],
            signal: vec![7.0; of.len() * symbols * n],
            others: (1..kinds).map(|k| vec![7.0; of.len() * symbols * Outputs::VALUES[k] * n]).collect(),
        };
        let mut from = 0;
        for &piece in pieces {
            let block: Vec<f64> =
                close.chunks_exact(n).flat_map(|row| &row[from..from + piece]).copied().collect();
            let mut parts: Vec<Vec<f64>> =
                (0..kinds).map(|k| vec![7.0; of.len() * symbols * Outputs::VALUES[k] * piece]).collect();
            let mut arrays = parts.iter_mut().map(Vec::as_mut_slice);
            let outputs = Outputs {
                n_configs: of.len(),
                signal: arrays.next(),
                layer1: arrays.next(),
                equity2: arrays.next(),
                average: arrays.next(),
                sign: arrays.next(),
                equity1: arrays.next(),
            };
            let members = of.iter().enumerate().map(|(c, s)| s.member(c, layer1[c], &growth[c])).collect();
            let call = Advance {
                prices: Prices { close: &block, source: &block, n_symbols: symbols, n_bars: piece },
                streams: vec![StreamJob { stream: &stream, members, values: &mut run.values }],
                bars: &mut run.bars,
                equities: &mut run.equities,
                outputs,
            };
            call.run(level).unwrap();
            let wholes = std::iter::once(&mut run.signal).chain(&mut run.others);
            for (whole, part) in wholes.zip(&parts) {
                if piece > 0 {
                    for (whole, part) in whole.chunks_exact_mut(n).zip(part.chunks_exact(piece)) {
                        whole[from..from + piece].copy_from_slice(part);
                    }
                }
            }
            from += piece;
        }
        run
    }

    /// A value of output `others[kind]` for configuration 0.
    pub fn other(&self, kind: usize, symbol: usize, value: usize, bar: usize) -> f64 {
        let values = [FAMILIES, FAMILIES, AVERAGES, AVERAGES, AVERAGES][kind];
        let (symbols, n) = (self.bars.len(), self.others[kind].len() / values / self.bars.len());
        assert!(symbol < symbols && bar < n);
        self.others[kind][(symbol * values + value) * n + bar]
    }
}

/// Equal to the last bit, state and outputs; any NaN equals any other.
pub fn same(a: &Run, b: &Run) {
    assert_eq!(a.bars, b.bars);
    let arrays = |run: &Run| -> Vec<Vec<f64>> {
        let mut all = vec![run.values.clone(), run.equities.clone(), run.signal.clone()];
        all.extend(run.others.iter().cloned());
        all
    };
    for (kind, (x, y)) in arrays(a).iter().zip(&arrays(b)).enumerate() {
        assert_eq!(x.len(), y.len());
        for (i, (x, y)) in x.iter().zip(y).enumerate() {
            assert!(
                x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan(),
                "array {kind}, value {i}: {x} and {y}"
            );
        }
    }
}

/// Random walks on a grid of hundredths, [symbols, bars].
pub fn walk(symbols: usize, bars: usize, seed: u64) -> Vec<f64> {
    let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut close = Vec::with_capacity(symbols * bars);
    for _ in 0..symbols {
        let mut price: f64 = 100.0;
        for _ in 0..bars {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            price *= 1.0 + 0.02 * (random as f64 / u64::MAX as f64 - 0.5);
            price = (price * 100.0).round().max(1.0) / 100.0;
            close.push(price);
        }
    }
    close
}
