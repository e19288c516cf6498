//! Following symbols live: one bar at a time, in time that history does not change.
//!
//! The same passes as for blocks, with the state laid out for them: everything of a group of symbols lies
//! together and is advanced where it lies. Histories have room behind them and are moved back only when
//! that is used up. Sides and signals, small whole numbers, take a byte each.

mod groups;
mod places;

use crate::arch::{Level, Task};
use crate::stream::{EQUITY_SLOTS, Member, Stream};
use crate::vector::Vector;
use groups::{Bar, Groups};

/// One configuration, with a growth table of its own.
pub type Followed = Member<'static>;

/// A state as `Advance` knows it, to begin from or to be written to.
pub struct Parts<'a> {
    pub bars: &'a mut [i64],
    /// Of each stream, [width, n_symbols].
    pub values: Vec<&'a mut [f64]>,
    /// [n_configs, EQUITY_SLOTS, n_symbols].
    pub equities: &'a mut [f64],
}

/// Symbols followed bar by bar.
pub trait Follow: Send + Sync {
    /// One bar: `close` [n_symbols], NaN where a symbol has none; `signal` [n_configs, n_symbols] is
    /// filled, NaN where there is no bar. An error, and nothing done, for a price that is not finite and
    /// > 0: which symbol's.
    fn update(&mut self, close: &[f64], signal: &mut [f64]) -> Result<(), usize>;
    /// The same for a bar of one symbol; `signal` [n_configs].
    fn update_one(&mut self, symbol: usize, close: f64, signal: &mut [f64]) -> Result<(), usize>;
    /// The state in its common form.
    fn store(&mut self, to: &mut Parts);
    /// Bars seen of each symbol.
    fn bars(&self) -> &[i64];
    /// Rows of each stream's values in the common form.
    fn widths(&self) -> Vec<usize>;
    /// Later growth tables, in the order of streams and members. An error where these are others.
    fn grow(&mut self, members: Vec<Vec<Followed>>) -> Result<(), String>;
}

/// Follow from a state on, with the vectors of `level`. An error where members do not fit it.
pub fn follow(
    streams: Vec<(Stream, Vec<Followed>)>,
    from: &mut Parts,
    level: Level,
) -> Result<Box<dyn Follow>, String> {
    let configs = from.equities.len() / (EQUITY_SLOTS * from.bars.len().max(1));
    for (stream, members) in &streams {
        stream.check()?;
        let layers = members.iter().map(|member| member.layer1).max().map_or(0, |last| last + 1);
        if members.iter().any(|m| m.config >= configs || m.growth.is_empty())
            || (0..layers).any(|layer| members.iter().all(|m| m.layer1 != layer))
        {
            return Err(
                "members: a configuration out of range, a layer 1 without member, or no growth.".into()
            );
        }
    }
    let mut made: Option<Box<dyn Follow>> = None;
    level.run(Begin { streams, from, made: &mut made });
    Ok(made.expect("a task is run once"))
}

struct Begin<'a, 'b> {
    streams: Vec<(Stream, Vec<Followed>)>,
    from: &'a mut Parts<'b>,
    made: &'a mut Option<Box<dyn Follow>>,
}

impl Task for Begin<'_, '_> {
    fn width(&self) -> usize {
        self.from.bars.len()
    }

    fn with<V: Vector>(self) {
        let symbols = self.from.bars.len();
        let streams = self
            .streams
            .into_iter()
            .map(|(stream, members)| Groups::<V>::new(stream, members, symbols))
            .collect();
        let mut follower = Follower { streams, bars: self.from.bars.to_vec() };
        follower.exchange(self.from, true);
        *self.made = Some(Box::new(follower));
    }
}

struct Follower<V> {
    streams: Vec<Groups<V>>,
    bars: Vec<i64>,
}

impl<V: Vector> Follower<V> {
    fn group(&mut self, group: usize, close: &[f64], signal: &mut impl FnMut(usize, usize, f64)) {
        let first = group * V::LANES;
        let lanes = close.len();
        let (mut present, mut now, mut t) = (0u32, [V::splat(1.0)], [V::splat(0.0)]);
        let bars = &self.bars[first..first + lanes];
        for (lane, price) in close.iter().enumerate() {
            present |= u32::from(!price.is_nan()) << lane;
            V::numbers_mut(&mut now)[lane] = if price.is_nan() { 1.0 } else { *price };
            V::numbers_mut(&mut t)[lane] = bars[lane] as f64;
        }
        if present == 0 {
            return;
        }
        let complete = present.count_ones() as usize == lanes;
        let bar = Bar { close: now[0], t: t[0], bars, present, complete };
        for stream in &mut self.streams {
            stream.bar(group, &bar, |config, vector| {
                for (lane, value) in V::numbers(&[vector]).iter().enumerate().take(lanes) {
                    if present >> lane & 1 == 1 {
                        signal(config, first + lane, *value);
                    }
                }
            });
        }
        for (lane, t) in self.bars[first..first + lanes].iter_mut().enumerate() {
            *t += i64::from(present >> lane & 1);
        }
    }

    /// Read the whole state from `with`, or write it there.
    fn exchange(&mut self, with: &mut Parts, read: bool) {
        for (stream, values) in self.streams.iter_mut().zip(&mut with.values) {
            stream.exchange(values, with.equities, self.bars.len(), read);
        }
    }
}

fn refused(price: f64) -> bool {
    !(price.is_nan() || price > 0.0 && price < f64::INFINITY)
}

impl<V: Vector> Follow for Follower<V> {
    fn update(&mut self, close: &[f64], signal: &mut [f64]) -> Result<(), usize> {
        if let Some(symbol) = close.iter().position(|&price| refused(price)) {
            return Err(symbol);
        }
        let symbols = self.bars.len();
        signal.fill(f64::NAN);
        for (group, close) in close.chunks(V::LANES).enumerate() {
            self.group(group, close, &mut |config, symbol, value| signal[config * symbols + symbol] = value);
        }
        Ok(())
    }

    fn update_one(&mut self, symbol: usize, close: f64, signal: &mut [f64]) -> Result<(), usize> {
        if refused(close) {
            return Err(symbol);
        }
        signal.fill(f64::NAN);
        let group = symbol / V::LANES;
        let lanes = V::LANES.min(self.bars.len() - group * V::LANES);
        let mut row = vec![f64::NAN; lanes];
        row[symbol % V::LANES] = close;
        self.group(group, &row, &mut |config, _, value| signal[config] = value);
        Ok(())
    }

    fn store(&mut self, to: &mut Parts) {
        to.bars.copy_from_slice(&self.bars);
        self.exchange(to, false);
    }

    fn bars(&self) -> &[i64] {
        &self.bars
    }

    fn widths(&self) -> Vec<usize> {
        self.streams.iter().map(|stream| stream.stream.width()).collect()
    }

    fn grow(&mut self, members: Vec<Vec<Followed>>) -> Result<(), String> {
        let places = |members: &[Followed]| members.iter().map(|m| (m.config, m.layer1)).collect::<Vec<_>>();
        let held = self.streams.iter().map(|stream| places(&stream.members));
        if !held.eq(members.iter().map(|members| places(members))) {
            return Err("the members are not those followed.".into());
        }
        for (stream, members) in self.streams.iter_mut().zip(members) {
            stream.members = members;
        }
        Ok(())
    }
}
