//! The door: what a call takes, checked once, then group after group of symbols.

use crate::arch::{Level, Task};
use crate::group::Group;
use crate::stream::{AVERAGES, EQUITY_SLOTS, FAMILIES, Member, Stream};
use crate::vector::Vector;

/// A block of bars, each [n_symbols, n_bars], symbol-major; NaN in `close`: no bar.
#[derive(Clone, Copy)]
pub struct Prices<'a> {
    pub close: &'a [f64],
    pub source: &'a [f64],
    pub n_symbols: usize,
    pub n_bars: usize,
}

/// Arrays to fill, [n_configs, n_symbols, values, n_bars], as many values as `Outputs::VALUES` says.
pub struct Outputs<'a> {
    pub n_configs: usize,
    pub signal: Option<&'a mut [f64]>,
    pub layer1: Option<&'a mut [f64]>,
    pub equity2: Option<&'a mut [f64]>,
    pub average: Option<&'a mut [f64]>,
    pub sign: Option<&'a mut [f64]>,
    pub equity1: Option<&'a mut [f64]>,
}

impl Outputs<'_> {
    /// Values a bar of `signal`, `layer1`, `equity2`, `average`, `sign`, `equity1`.
    pub const VALUES: [usize; 6] = [1, FAMILIES, FAMILIES, AVERAGES, AVERAGES, AVERAGES];

    pub fn none(n_configs: usize) -> Self {
        Self {
            n_configs,
            signal: None,
            layer1: None,
            equity2: None,
            average: None,
            sign: None,
            equity1: None,
        }
    }

    /// Every output there is, with its values a bar.
    pub fn each(&mut self) -> impl Iterator<Item = (usize, &mut [f64])> {
        let all = [
            &mut self.signal,
            &mut self.layer1,
            &mut self.equity2,
            &mut self.average,
            &mut self.sign,
            &mut self.equity1,
        ];
        Self::VALUES.into_iter().zip(all).filter_map(|(values, array)| Some((values, array.as_deref_mut()?)))
    }
}

/// One stream: its settings, its members, and its state [width, n_symbols].
pub struct StreamJob<'a> {
    pub stream: &'a Stream,
    pub members: Vec<Member<'a>>,
    pub values: &'a mut [f64],
}

/// One call: advance every symbol of every stream by its present bars.
pub struct Advance<'a> {
    pub prices: Prices<'a>,
    pub streams: Vec<StreamJob<'a>>,
    /// [n_symbols]: bars seen before; counted up at the end.
    pub bars: &'a mut [i64],
    /// [n_configs, EQUITY_SLOTS, n_symbols].
    pub equities: &'a mut [f64],
    pub outputs: Outputs<'a>,
}

impl Advance<'_> {
    /// Do it, with the vectors of `level`; an error, and nothing done, where shapes do not fit.
    pub fn run(self, level: Level) -> Result<(), String> {
        self.check()?;
        level.run(self);
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        let (symbols, bars) = (self.prices.n_symbols, self.prices.n_bars);
        let configs = self.outputs.n_configs;
        length("close", self.prices.close, symbols * bars)?;
        length("source", self.prices.source, symbols * bars)?;
        length("bars", self.bars, symbols)?;
        length("equities", self.equities, configs * EQUITY_SLOTS * symbols)?;
        let outputs = &self.outputs;
        let arrays = [
            ("signal", &outputs.signal),
            ("layer1", &outputs.layer1),
            ("equity2", &outputs.equity2),
            ("average", &outputs.average),
            ("sign", &outputs.sign),
            ("equity1", &outputs.equity1),
        ];
        for ((name, array), values) in arrays.into_iter().zip(Outputs::VALUES) {
            if let Some(array) = array {
                length(name, array, configs * symbols * values * bars)?;
            }
        }
        for job in &self.streams {
            job.stream.check()?;
            length("values", job.values, job.stream.width() * symbols)?;
            let mut layers = 0;
            for member in &job.members {
                if member.layer1 > layers {
                    return Err(format!(
                        "member of configuration {}: layer1 = {} where {layers} came before.",
                        member.config, member.layer1
                    ));
                }
                layers = layers.max(member.layer1 + 1);
                if member.config >= configs || member.growth.is_empty() {
                    return Err(format!(
                        "member of configuration {}: there are {configs}, and its growth has {} values.",
                        member.config,
                        member.growth.len()
                    ));
                }
            }
        }
        Ok(())
    }
}

fn length<T>(name: &str, array: &[T], expected: usize) -> Result<(), String> {
    if array.len() == expected {
        return Ok(());
    }
    Err(format!("{name} has {} values, the shapes of the call ask for {expected}.", array.len()))
}

impl Task for Advance<'_> {
    fn width(&self) -> usize {
        self.prices.n_symbols
    }

    fn with<V: Vector>(mut self) {
        let symbols = self.prices.n_symbols;
        let counts: Vec<usize> = (0..symbols).map(|symbol| self.prices.count(symbol)).collect();
        for job in &mut self.streams {
            let mut group = Group::<V>::new(job.stream, &job.members, self.prices);
            for first in (0..symbols).step_by(V::LANES) {
                let lanes = V::LANES.min(symbols - first);
                let counts = &counts[first..first + lanes];
                group.advance(
                    first,
                    counts,
                    &self.bars[first..first + lanes],
                    job.values,
                    self.equities,
                    &mut self.outputs,
                );
            }
        }
        for (bars, count) in self.bars.iter_mut().zip(counts) {
            *bars += count as i64;
        }
    }
}

impl<'a> Prices<'a> {
    pub fn close_of(&self, symbol: usize) -> &'a [f64] {
        &self.close[symbol * self.n_bars..][..self.n_bars]
    }
    pub fn source_of(&self, symbol: usize) -> &'a [f64] {
        &self.source[symbol * self.n_bars..][..self.n_bars]
    }
    /// Present bars of a symbol.
    fn count(&self, symbol: usize) -> usize {
        self.close_of(symbol).iter().filter(|close| !close.is_nan()).count()
    }
}
